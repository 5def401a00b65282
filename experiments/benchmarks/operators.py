"""Suite `operators`: what a child costs before it is evaluated, and archives."""

import pathlib
import tempfile
from collections.abc import Callable

import jax
import torch

from cycleqd_jax.inference.population import (
    empty_population,
    with_individual,
)
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.qd.propose import propose
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.runs.setup import Prepared
from cycleqd_jax.search.base import State
from experiments.benchmarks import archives, dense, frame, quickstart

_BATCH = 6  # children that a generation of the quickstart breeds at once
_CHILDREN = 18  # bred per measurement in factored form
_WAYS = ("factored", "factored, in batches", "materialised", "bfloat16", "same rank")


def run(options: frame.Options, say: frame.Say) -> list[frame.Row]:
    """Measures the suite."""
    config = quickstart.run_config(options)
    prepared = quickstart.prepared_run(config, say)
    settings = config.qd
    state = quickstart.full_state(prepared, config.qd.bins)
    with tempfile.TemporaryDirectory() as folder:
        rows = _children(options, prepared, settings, state, pathlib.Path(folder), say)
        say("archives with an elite in every cell")
        checkpoints = pathlib.Path(folder) / "checkpoints"
        rows += archives.rows(options, state, checkpoints, megabytes=50, seconds=2)
    return rows


def _children(
    options: frame.Options,
    prepared: Prepared,
    settings: QDSettings,
    state: State,
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
    breed_batch = _breeder(prepared, settings, state, _BATCH)
    population = empty_population(prepared.basis, _CHILDREN)

    def put(genome: Genome, row: int) -> None:
        nonlocal population
        population = with_individual(population, prepared.basis, genome, row)
        jax.block_until_ready((population.coefficients, population.vectors))

    def factored() -> None:
        for row in range(_CHILDREN):
            put(breed()[0], row)

    def in_batches() -> None:
        for start in range(0, _CHILDREN, _BATCH):
            genomes = breed_batch()
            for i in range(_BATCH):
                put(genomes[i], start + i)

    child = None

    def materialised() -> object:
        nonlocal child
        # As the evaluator does: into the memory of the child before.
        child = materialise(prepared.weights, prepared.basis, breed()[0], into=child)
        return child

    say("children by turns")
    ways = (factored, in_batches, materialised, *map(dense_child, worlds))
    took = frame.medians(
        frame.measure(dict(zip(_WAYS, ways, strict=True)), options.repeats)
    )
    took["factored"] /= _CHILDREN
    took["factored, in batches"] /= _CHILDREN
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
            ("factored, in batches", "bfloat16", None, f"{_BATCH} children at once"),
            ("materialised", "bfloat16", 50.0, reference),
            ("materialised", "same rank", None, rank),
        )
    ]


def _breeder(
    prepared: Prepared, settings: QDSettings, state: State, count: int = 1
) -> Callable[[], Genome]:
    """Breeds the next children of full archives with every call."""
    key, t = jax.random.key(0), state.next_generation

    def breed():
        nonlocal t
        proposal = propose(
            state.memory.archives,
            state.bank,
            prepared.basis,
            key,
            range(t, t + count),
            settings=settings,
        )
        t += count
        return jax.device_get(proposal.genomes)

    return breed
