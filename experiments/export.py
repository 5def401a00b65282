"""Writes one individual of a run as a Hugging Face folder and as a PEFT adapter.

    python -m experiments.export RUN [--individual ID] --to FOLDER

With --push-to-hub ORG/NAME the folder is also uploaded.

FOLDER is the whole model. Where the individual is exactly a low-rank change of the
base, or with --approximate, FOLDER/adapter is a PEFT adapter; it belongs to the base
weights as they were loaded: the base model's own folder or hub name, or FOLDER/base
where they were dequantised.
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import huggingface_hub
import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files.remote import RemoteFolder, is_url
from cycleqd_jax.merging.individuals import Recipe, TrainedExpert
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.models.formats.gguf_export import GGUFType, export_gguf
from cycleqd_jax.models.formats.gguf_header import (
    GGUFHeader,
    header_of_file,
    header_of_model,
)
from cycleqd_jax.models.loading import LoadedModel
from cycleqd_jax.models.locate import locate
from cycleqd_jax.models.sharding import put_on_device
from cycleqd_jax.progress import Observer
from cycleqd_jax.reports import console
from cycleqd_jax.reports.exporting import write_adapter, write_model
from cycleqd_jax.reports.hub import check_hub_target, push_to_hub
from cycleqd_jax.reports.model_card import make_card
from cycleqd_jax.runs.adapters import adapter_of
from cycleqd_jax.runs.opened import open_run


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and exports; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.export",
        description="Write a model of a finished run as a Hugging Face folder and, "
        "where that is exact, as a PEFT adapter.",
    )
    parser.add_argument(
        "run",
        type=console.path,
        help="run folder, like runs/quickstart, or the URL of its mirror",
    )
    parser.add_argument(
        "--individual",
        metavar="NAME",
        help="the run's result (default), base, uniform_merge, scaled_merge, "
        "best_of_archive, expert/TASK, champion/TASK (the elite that stands for an "
        "archive in the aggregated model), or child/N that an archive still holds",
    )
    parser.add_argument(
        "--to",
        required=True,
        type=console.path,
        metavar="FOLDER",
        help="a new folder, or its URL in a bucket like gs://bucket/model",
    )
    parser.add_argument(
        "--no-adapter", action="store_true", help="write the whole model only"
    )
    parser.add_argument(
        "--approximate",
        action="store_true",
        help="write the adapter even where it cannot hold the whole change",
    )
    parser.add_argument(
        "--max-rank",
        type=_rank,
        metavar="N",
        help="cut the adapter to this rank, the nearest one, and say what it loses; by "
        "default its rank is the sum of the experts'",
    )
    parser.add_argument(
        "--gguf",
        choices=get_args(GGUFType),
        help="also write FOLDER/model-TYPE.gguf for llama.cpp",
    )
    parser.add_argument(
        "--push-to-hub",
        metavar="ORG/NAME",
        help="also upload FOLDER to a new repository of the Hugging Face hub, private "
        "unless --public",
    )
    parser.add_argument(
        "--public", action="store_true", help="everybody sees that repository"
    )
    args = parser.parse_args(argv)
    return console.guarded(
        lambda: _export(args),
        interrupted="Nothing is left half written; run the command again.",
    )


def _export(args: argparse.Namespace) -> int:
    console.set_up_process()
    if args.push_to_hub is not None:
        if is_url(args.to):
            raise BadInputError(
                f"--to: {args.to} is a URL; for --push-to-hub give a folder of this "
                "machine, which is kept if the upload fails."
            )
        check_hub_target(
            args.push_to_hub, huggingface_hub.HfApi(), huggingface_hub.get_token()
        )
    elif args.public:
        raise BadInputError("--public belongs to --push-to-hub ORG/NAME; give both.")
    if not is_url(args.to):
        return _export_to(args, pathlib.Path(args.to))
    remote = RemoteFolder(args.to)
    if remote.names():
        raise BadInputError(f"--to: {args.to} has files already; choose another.")
    with tempfile.TemporaryDirectory() as place:
        code = _export_to(args, pathlib.Path(place))
        found = (path for path in pathlib.Path(place).rglob("*") if path.is_file())
        # The config last: without it a folder is no model.
        for path in sorted(found, key=lambda path: (path.name == "config.json", path)):
            remote.upload(path.relative_to(place).as_posix(), path)
    return code


def _export_to(args: argparse.Namespace, target: pathlib.Path) -> int:
    run, to = args.run, args.to
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInputError(
            f"--to: {to} exists and is not an empty folder; choose another."
        )
    opened = open_run(run, finished=True)
    asked = args.individual or opened.facts.result
    individual = opened.individual(asked)
    if isinstance(individual, TrainedExpert):
        raise BadInputError(
            f"--individual: {asked} has weights of its own and no genome; copy its "
            "folder instead."
        )
    with console.ConsoleObserver() as observer:
        observer.phase("loading the base model")
        model = opened.load_any_base()
        header = _gguf_header(args, model)
        observer.phase(f"writing {opened.resolve(asked)} to {to}")
        card = make_card(opened, asked, _command(args), args.push_to_hub)
        if isinstance(individual, Recipe):
            host = dict(opened.whole_models(model).host_weights(individual))
            write_model(target, model, host, card.text())
            observer.note(f"no adapter: {individual.method} changes single elements")
            _write_gguf(args, target, header, host, observer)
            _push(args, target, observer)
            return console.DONE
        base = put_on_device(model.weights)
        weights = materialise(base, opened.basis, individual, opened.config.noise)
        host = {name: np.asarray(array) for name, array in weights.items()}
        write_model(target, model, host, card.text())
        _write_gguf(args, target, header, host, observer)
        if not args.no_adapter:
            tied = getattr(model.config, "tie_word_embeddings", False)
            plan = adapter_of(
                opened,
                individual,
                base,
                weights,
                tied_embeddings=tied,
                max_rank=args.max_rank,
            )
            approximate = args.approximate or args.max_rank is not None
            write_adapter(plan, approximate, target, to, opened, model, card, observer)
        _push(args, target, observer)
    return console.DONE


def _gguf_header(args: argparse.Namespace, model: LoadedModel) -> GGUFHeader | None:
    """All but the weights of the GGUF file, if --gguf asks for one.

    Raises:
      BadInputError: a GGUF file cannot hold the model.
    """
    if args.gguf is None:
        return None
    if model.tokenizer is None:
        raise BadInputError(
            f"--gguf: {model.source} is a segmentation model, which has no GGUF file; "
            "leave --gguf out."
        )
    path = locate(model.source)
    if path.is_file() and model.is_own:
        return header_of_file(path)
    return header_of_model(model.config, model.tokenizer)


def _write_gguf(
    args: argparse.Namespace,
    target: pathlib.Path,
    header: GGUFHeader | None,
    weights: Mapping[str, Any],
    observer: Observer,
) -> None:
    if header is not None:
        place = target / f"model-{args.gguf}.gguf"
        observer.phase(f"writing {place}")
        export_gguf(place, header, weights, args.gguf)


def _command(args: argparse.Namespace) -> list[str]:
    """The words of the command that was given; the folder's place is nobody's."""
    words = ["python", "-m", "experiments.export", args.run]
    if args.individual:
        words += ["--individual", args.individual]
    words += ["--to", "FOLDER"]
    words += ["--no-adapter"] * args.no_adapter + ["--approximate"] * args.approximate
    if args.gguf is not None:
        words += ["--gguf", args.gguf]
    if args.max_rank is not None:
        words += ["--max-rank", str(args.max_rank)]
    return words


def _push(
    args: argparse.Namespace, target: pathlib.Path, observer: console.ConsoleObserver
) -> None:
    if args.push_to_hub is None:
        return
    name = args.push_to_hub
    observer.phase(f"uploading to {name} on the hub")
    url = push_to_hub(
        target,
        name,
        huggingface_hub.HfApi(),
        private=not args.public,
        message=f"{args.individual or 'The result'} of {pathlib.Path(args.run).name}",
    )
    observer.note(f"the model is at {url}")


def _rank(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 10**6):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no rank; expected a whole number from 1"
        )
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
