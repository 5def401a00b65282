"""Suite `operators`: what a child costs before it is evaluated, and archives."""

import pathlib
import tempfile
from collections.abc import Callable

import jax
import torch

from cycleqd_jax.inference.population import empty_population, with_individual
from cycleqd_jax.io.checkpoints import Checkpoints, CycleState
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.prepare import Prepared
from cycleqd_jax.qd.propose import propose
from cycleqd_jax.qd.propose_settings import ProposeSettings
from cycleqd_jax.run_settings import propose_settings
from experiments.benchmarks import dense, frame, quickstart

_CHILDREN = 16  # bred one after another per measurement in factored form
_WAYS = ("factored", "materialised", "bfloat16", "same rank")


def run(options: frame.Options, say: frame.Say) -> list[frame.Row]:
    """Measures the suite."""
    config = quickstart.run_config(options)
    prepared = quickstart.prepared_run(config, say)
    settings = propose_settings(config.qd)
    state = quickstart.full_state(prepared, config.qd.bins)
    with tempfile.TemporaryDirectory() as folder:
        rows = _children(options, prepared, settings, state, pathlib.Path(folder), say)
        say("archives with an elite in every cell")
        rows += _archives(options, state, pathlib.Path(folder) / "checkpoints")
    return rows


def _children(
    options: frame.Options,
    prepared: Prepared,
    settings: ProposeSettings,
    state: CycleState,
    folder: pathlib.Path,
    say: frame.Say,
) -> list[frame.Row]:
    say("the same as dense tensors")
    torch.set_num_threads(frame.cores())
    weights = prepared.model.weights
    parents = tuple(
        jax.device_get(materialise(prepared.weights, prepared.basis, genome))
        for genome in (state.bank.genome(0), state.bank.genome(1))
    )
    worlds = {
        name: dense.make_world(
            weights, parents, prepared.basis, folder, dtype=dtype, full_rank=full
        )
        for name, dtype, full in (
            ("bfloat16", torch.bfloat16, True),
            ("same rank", torch.float32, False),
        )
    }
    del parents
    draws = torch.Generator().manual_seed(0)

    def dense_child(name: str) -> Callable[[], object]:
        return lambda: dense.make_child(
            worlds[name],
            std=settings.crossover_std,
            w_max=settings.w_max,
            draws=draws,
        )

    breed = _breeder(prepared, settings, state)
    population = empty_population(prepared.basis, _CHILDREN)

    def factored() -> object:
        nonlocal population
        for row in range(_CHILDREN):
            population = with_individual(population, prepared.basis, breed(), row)
            jax.block_until_ready(population)

    child = None

    def materialised() -> object:
        nonlocal child
        # As the evaluator does: into the memory of the child before.
        child = materialise(prepared.weights, prepared.basis, breed(), into=child)
        return child

    say("children by turns")
    ways = (factored, materialised, *map(dense_child, worlds))
    took = frame.medians(
        frame.measure(dict(zip(_WAYS, ways, strict=True)), options.repeats)
    )
    took["factored"] /= _CHILDREN
    reference = (
        "PyTorch on the CPU: two parents from safetensors, merged, SVD of full rank "
        "added, copied into a model; bfloat16"
    )
    rank = "PyTorch in float32 with the SVD at the experts' own rank"
    return [
        frame.compare(
            f"propose a child, {ours}",
            took[ours],
            took[other],
            "s",
            target=target,
            note=note,
        )
        for ours, other, target, note in (
            ("factored", "bfloat16", 1000.0, reference),
            ("factored", "same rank", None, rank),
            ("materialised", "bfloat16", 50.0, reference),
            ("materialised", "same rank", None, rank),
        )
    ]


def _breeder(
    prepared: Prepared, settings: ProposeSettings, state: CycleState
) -> Callable[[], object]:
    """Breeds the next child of full archives with every call."""
    key, t = jax.random.key(0), state.next_generation

    def breed():
        nonlocal t
        proposal = propose(
            state.archives, state.bank, prepared.basis, key, [t], settings=settings
        )
        t += 1
        return jax.device_get(proposal.genomes)[0]

    return breed


def _archives(
    options: frame.Options, state: CycleState, folder: pathlib.Path
) -> list[frame.Row]:
    count = len(state.archives.kept_ids())
    bank = state.bank
    held = jax.tree.leaves((bank.genomes, state.archives))
    held = [*held, bank.scores, bank.parents, bank.weights, bank.active]
    with Checkpoints(folder) as checkpoints:
        took = frame.medians(
            frame.measure({"save": lambda: checkpoints.save(state)}, options.repeats)
            | frame.measure({"restore": checkpoints.restore}, options.repeats)
        )
    where = f"{count} elites of {state.bank.genomes[0].coefficients.size} coefficients"
    return [
        frame.limit(
            "archives: memory",
            sum(a.nbytes for a in held) / 1e6,
            50.0,
            "MB",
            note=where,
        ),
        frame.limit("archives: save", took["save"], 2.0, "s", note=where),
        frame.limit("archives: restore", took["restore"], 2.0, "s", note=where),
    ]
