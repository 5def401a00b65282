"""Writes one individual of a run as a Hugging Face folder and as a PEFT adapter.

    python -m experiments.export RUN [--individual ID] --to FOLDER

FOLDER is the whole model. Where the individual is exactly a low-rank change of the
base, or with --approximate, FOLDER/adapter is a PEFT adapter; it belongs to the base
weights as they were loaded: the base model's own folder or hub name, or FOLDER/base
where they were dequantised.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.basis_store import load_basis
from cycleqd_jax.merging.materialise import low_rank_factors, materialise
from cycleqd_jax.models.formats.adapter_plan import AdapterPlan, plan_adapter
from cycleqd_jax.models.loading import LoadedModel, load_model
from cycleqd_jax.models.locate import is_hub_name, locate
from cycleqd_jax.progress import Observer
from cycleqd_jax.qd.archives import state_fingerprint
from cycleqd_jax.runs.checkpoints import Checkpoints, CycleState
from cycleqd_jax.runs.export import export_adapter, export_model
from cycleqd_jax.runs.fingerprints import stored_fingerprints
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.names import individual_genome, known_individuals
from cycleqd_jax.runs.run_settings import noise_source
from cycleqd_jax.runs.setup import put_on_device
from experiments import console

_CHAMPION = "champion/"


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
        "scaled_merge, expert/TASK, champion/TASK (the elite that stands for an "
        "archive in the aggregated model), or child/N that an archive still holds",
    )
    parser.add_argument("--to", required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--no-adapter", action="store_true", help="write the whole model only"
    )
    parser.add_argument(
        "--approximate",
        action="store_true",
        help="write the adapter even where it cannot hold the whole change",
    )
    args = parser.parse_args(argv)
    return console.guarded(
        lambda: _export(args),
        interrupted="Nothing is left half written; run the command again.",
    )


def _export(args: argparse.Namespace) -> int:
    run, to = args.run, args.to
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
        facts = files.read_sealed(folder.path / "state.json")
        _check_state(folder, state, facts)
        individual = _named(args.individual, facts)
        genome = individual_genome(individual, facts, state, basis)
        if genome is None:
            champions = [f"{_CHAMPION}{task}" for task in facts["tasks"]]
            known = ", ".join([*known_individuals(facts, state), *champions])
            raise BadInputError(
                f"--individual: {args.individual!r} is not in {run}; there are {known}."
            )
        observer.phase("loading the base model")
        model = load_model(config.base_model, dtype=config.dtype)
        _check_base(folder, model)
        observer.phase(f"writing {individual} to {to}")
        base, noise = put_on_device(model.weights), noise_source(config)
        weights = materialise(base, basis, genome, noise)
        host = {name: np.asarray(array) for name, array in weights.items()}
        card = _card(args.individual, individual, run, config, facts)
        export_model(target, model.config, host, model.tokenizer, card)
        if not args.no_adapter:
            if config.dtype != "float32":  # what rounds to nothing there counts too
                base = {name: w.astype(jnp.float32) for name, w in base.items()}
                weights = materialise(base, basis, genome, noise)
            plan = plan_adapter(
                base,
                weights,
                low_rank_factors(basis, genome),
                tied_embeddings=model.config.tie_word_embeddings,
            )
            _write_adapter(
                plan, args.approximate, target, config, model, card, observer
            )
    return console.DONE


def _check_state(folder: RunFolder, state: CycleState | None, facts: dict) -> None:
    """Refuses another checkpoint than the one that was compared and reported."""
    found = state and state_fingerprint(state.archives, state.bank)
    if found != facts["archives_fingerprint"]:
        raise BadInputError(
            f"run: the checkpoint of {folder.path} is damaged or is not that of its "
            "state.json; make it again with experiments.agent_skills --resume."
        )


def _named(individual: str, facts: dict) -> str:
    """A champion's own name; other names as they are."""
    task = individual.removeprefix(_CHAMPION)
    if individual.startswith(_CHAMPION) and task in facts["aggregation"]:
        return facts["aggregation"][task]["individual"]
    return individual


def _write_adapter(
    plan: AdapterPlan,
    approximate: bool,
    target: pathlib.Path,
    config: RunConfig,
    model: LoadedModel,
    card: str,
    observer: Observer,
) -> None:
    if not plan.factors:
        observer.note("no adapter: the experts change no matrix that it could hold")
        return
    if not plan.is_exact:
        loss = plan.describe_loss()
        if not approximate:
            observer.note(
                f"no adapter: it would lose {loss}; --approximate writes it all the "
                "same"
            )
            return
        observer.note(f"the adapter is approximate: it loses {loss}")
        card += (
            f"\n**Approximate**: this adapter loses {loss}, in squared Frobenius norm. "
            "The whole model is in the folder above it.\n"
        )
    base, base_name = pathlib.Path(config.base_model).expanduser(), None
    if is_hub_name(config.base_model):
        base, base_name = locate(config.base_model), config.base_model
    elif not (base / "config.json").is_file():
        base = target / "base"
        observer.phase(f"writing the base weights to {base}")
        base_card = f"# Base weights\n\n`{config.base_model}` as it was loaded.\n"
        export_model(base, model.config, model.weights, model.tokenizer, base_card)
    observer.phase(f"writing the adapter to {target / 'adapter'}")
    export_adapter(
        target / "adapter", plan.factors, base, card=card, base_name=base_name
    )


def _check_base(folder: RunFolder, model: LoadedModel) -> None:
    wanted = stored_fingerprints(folder)["base model"]
    if model.fingerprint != wanted:
        raise BadInputError(
            f"base_model: {model.source} has other weights now (sha256 "
            f"{model.fingerprint[:12]}) than when the run in {folder.path} was made "
            f"({wanted[:12]}); bring the old file back."
        )


def _card(asked: str, individual: str, run: str, config: RunConfig, facts: dict) -> str:
    title = asked if asked == individual else f"{asked} ({individual})"
    lines = [
        f"# {title} of {pathlib.Path(run).name}",
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
