"""Writes one individual of a run as a Hugging Face folder and as a PEFT adapter.

    python -m experiments.export RUN [--individual ID] --to FOLDER

FOLDER is the whole model. Where the individual is exactly a low-rank change of the
base, FOLDER/adapter is a PEFT adapter; it belongs to the base weights as they were
loaded: the base model's own folder, or FOLDER/base where they were dequantised.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from cycleqd_jax.comparison import individual_genome, known_individuals
from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.io import files
from cycleqd_jax.io.checkpoints import Checkpoints
from cycleqd_jax.io.export import export_adapter, export_model
from cycleqd_jax.io.run_folder import RunFolder
from cycleqd_jax.merging.basis_file import load_basis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.low_rank import is_low_rank, low_rank_factors
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.models.loading import LoadedModel, load_model
from cycleqd_jax.models.peft import LoraFactor
from cycleqd_jax.observe import Observer
from cycleqd_jax.prepare import put_on_device
from experiments import console


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and exports; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.export",
        description="Write a model of a finished run as a Hugging Face folder and, "
        "where that is exact, as a PEFT adapter.",
    )
    parser.add_argument("run", help="run folder, like runs/quickstart")
    parser.add_argument(
        "--individual",
        default="aggregated",
        metavar="ID",
        help="aggregated (default), best_of_archive, base, uniform_merge, "
        "scaled_merge, expert/TASK, or child/N that an archive still holds",
    )
    parser.add_argument("--to", required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--no-adapter", action="store_true", help="write the whole model only"
    )
    args = parser.parse_args(argv)
    return console.guarded(
        lambda: _export(args.run, args.individual, args.to, not args.no_adapter),
        interrupted="Nothing is left half written; run the command again.",
    )


def _export(run: str, individual: str, to: str, adapter: bool) -> int:
    console.set_up_process()
    target = pathlib.Path(to)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInputError(
            f"--to: {to} exists and is not an empty folder; choose another."
        )
    if not (pathlib.Path(run) / "state.json").is_file():
        raise BadInputError(
            f"run: {run} holds no finished run (state.json is missing); finish it with "
            "experiments.agent_skills --resume."
        )
    with console.ConsoleObserver() as observer, RunFolder(run, resume=True) as folder:
        config = load_config(folder.path / "config.yaml", [], RunConfig)
        basis = load_basis(folder.path / "basis.safetensors").basis
        with Checkpoints(folder.checkpoints) as checkpoints:
            state = checkpoints.restore()
        facts = files.read_json(folder.path / "state.json")
        genome = individual_genome(individual, facts, state, basis)
        if genome is None:
            known = ", ".join(known_individuals(facts, state))
            raise BadInputError(
                f"--individual: {individual!r} is not in {run}; there are {known}."
            )
        observer.phase("loading the base model")
        model = load_model(config.base_model, dtype=config.dtype)
        _check_base(folder, model)
        observer.phase(f"writing {individual} to {to}")
        weights = materialise(put_on_device(model.weights), basis, genome)
        host = {name: np.asarray(array) for name, array in weights.items()}
        card = _card(individual, run, config, facts)
        export_model(target, model.config, host, model.tokenizer, card)
        if adapter:
            _write_adapter(target, config, model, basis, genome, card, observer)
    return console.DONE


def _write_adapter(
    target: pathlib.Path,
    config: RunConfig,
    model: LoadedModel,
    basis,
    genome: Genome,
    card: str,
    observer: Observer,
) -> None:
    tied = model.config.tie_word_embeddings
    if not is_low_rank(basis, genome, tied_embeddings=tied):
        observer.note(
            "no adapter: this individual changes weights that an adapter cannot say"
        )
        return
    base = pathlib.Path(config.base_model).expanduser()
    if not (base / "config.json").is_file():
        base = target / "base"
        observer.phase(f"writing the base weights to {base}")
        base_card = f"# Base weights\n\n`{config.base_model}` as it was loaded.\n"
        export_model(base, model.config, model.weights, model.tokenizer, base_card)
    factors = {
        name: LoraFactor(b, a, 1.0)
        for name, (b, a) in low_rank_factors(basis, genome).items()
    }
    observer.phase(f"writing the adapter to {target / 'adapter'}")
    export_adapter(target / "adapter", factors, base, card=card)


def _check_base(folder: RunFolder, model: LoadedModel) -> None:
    wanted = files.read_json(folder.path / "run.json")["fingerprints"]["base model"]
    if model.fingerprint != wanted:
        raise BadInputError(
            f"base_model: {model.source} has other weights now (sha256 "
            f"{model.fingerprint[:12]}) than when the run in {folder.path} was made "
            f"({wanted[:12]}); bring the old file back."
        )


def _card(individual: str, run: str, config: RunConfig, facts: dict) -> str:
    lines = [
        f"# {individual} of {pathlib.Path(run).name}",
        "",
        f"Made by CycleQD (arXiv 2410.14735) with cycleqd_jax from "
        f"`{config.base_model}` and the experts {', '.join(facts['tasks'])}, after "
        f"{facts['evaluated_children']} children with seed {config.seed}.",
    ]
    if individual == "aggregated":
        lines += ["", "| archive | champion | weight |", "| --- | --- | --- |"]
        lines += [
            f"| {task} | {row['individual']} | {row['beta']:.4f} |"
            for task, row in facts["aggregation"].items()
        ]
    lines += ["", f"Scores and lineage: `python -m experiments.report {run}`."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
