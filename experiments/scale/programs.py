"""The programs of a run and of a training, ready to be compiled."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from cycleqd_jax.inference import programs
from cycleqd_jax.inference.population import Population
from cycleqd_jax.inference.programs import DecodeState, PrefillChunk, ProgramKey
from cycleqd_jax.inference.sampling import RowSampling
from cycleqd_jax.merging import device_svd
from cycleqd_jax.merging.blocks import matrices_per_call
from cycleqd_jax.merging.materialise import change_matrix
from cycleqd_jax.models import sharding
from cycleqd_jax.training.batches import Batch
from cycleqd_jax.training.lora import Lora, init_factors
from cycleqd_jax.training.settings import LoraSettings, OptimiserSettings
from cycleqd_jax.training.step import init_state, make_optimiser, train_step
from experiments.scale.abstract import AbstractRun, Shape, device_bytes

NAMES = ("factorise", "prefill", "decode", "materialise", "train")
MODES = ("factored", "materialised")


@dataclasses.dataclass(frozen=True)
class Part:
    """One compiled program, or one of several that are called one after another.

    Attributes:
      lower: lowers it.
      calls: how often it is called.
      steps: passes through its loop in one call; figures are those of one pass.
    """

    lower: Callable[[], jax.stages.Lowered]
    calls: int = 1
    steps: int = 1


@dataclasses.dataclass(frozen=True)
class Job:
    """One program to compile and measure.

    Attributes:
      name: of the program, with its mode where it has one.
      parts: what it is made of.
      held: bytes on each device that a run keeps beside the program.
      held_has_arguments: whether the arguments of the parts are among them.
      needed: bytes on each device that one step must read: weights, directions, cache;
        None where that is no measure.
      remark: what a reader must know; may be empty.
      unrolls: whether its programs have all layers in them, not one matrix at a time.
      passes: of the arithmetic units in one operation; in float32 a TPU multiplies the
        three bfloat16 parts of each number.
    """

    name: str
    parts: tuple[Part, ...]
    held: int
    needed: int | None = None
    remark: str = ""
    held_has_arguments: bool = False
    unrolls: bool = True
    passes: int = 1


def jobs(
    run: AbstractRun, names: tuple[str, ...], modes: tuple[str, ...]
) -> Iterator[Job]:
    """The programs with these names, in these modes where they have one."""
    weights, basis, cache = run.weights(), run.placed_basis(), run.cache()
    if "factorise" in names:
        yield from _factorise(run)
    for mode in modes:
        factored = mode == "factored"
        population = run.population() if factored else Population()
        held = device_bytes(basis if factored else (weights, basis))
        if factored and run.shares_directions:
            held -= device_bytes((basis.u, basis.v))
        if "prefill" in names:
            lower = partial(_prefill, run, weights, population, cache)
            yield Job(f"prefill, {mode}", (Part(lower),), held)
        if "decode" in names:
            lower = partial(_decode, run, weights, population, cache)
            part = Part(lower, steps=run.engine.decode_steps)
            needed = device_bytes((weights, population.u, population.v, cache))
            yield Job(f"decode, {mode}", (part,), held, needed)
    if "materialise" in names and "materialised" in modes:
        yield _materialise(run)
    if "train" in names:
        yield _train(run)


def _factorise(run: AbstractRun) -> Iterator[Job]:
    """A call for each batch of task vectors, on the first device; a job for each shape.

    Eigenvectors of Gram matrices are jobs of their own, as shapes share them. There are
    no jobs if all task vectors are small enough for the host.
    """
    basis, shapes = run.placed_basis(), run.program.config.weight_shapes()
    counts = collections.Counter(
        shapes[slot.name]
        for slot in basis.layout
        if min(shapes[slot.name]) >= run.basis.host_below
    )
    experts, dtype, rank = basis.num_experts, run.program.dtype, run.basis.rank
    place = partial(
        Shape, dtype=jnp.float32, sharding=SingleDeviceSharding(run.devices[0])
    )
    job = partial(Job, unrolls=False, passes=6)
    grams: dict[int, tuple[int, int]] = {}  # size -> how many, bytes beside one
    # Small ones first: they are compiled sooner.
    for (rows, columns), count in sorted(counts.items(), key=lambda c: math.prod(c[0])):
        room, size = matrices_per_call((rows, columns)), min(rows, columns)
        number = min(experts * count, room)
        calls = -(-experts * count // number)
        keep = size if rank == "full" else min(rank, size)
        given = place((number, rows, columns))
        # Beside a batch lie the next one, the two weights of its last task vector, and
        # the directions of as many parameters, of those before, and of these joined.
        directions = min(count, room) * experts * (rows + columns) * keep
        held = 4 * given.size + dtype.itemsize * (2 * rows * columns + 3 * directions)
        options = (keep, dtype.name, False)
        if device_svd.is_randomised((rows, columns), rank):
            called = [partial(device_svd.randomised_svd.lower, given, *options)]
        else:
            squares = place((number, size, size))
            called = [
                partial(device_svd.gram_matrices.lower, given),
                partial(device_svd.gram_svd.lower, given, squares, *options),
            ]
            # Those of a batch, and their eigenvectors, which are then stacked.
            held += 2 * 4 * squares.size
            many, beside = grams.get(size, (0, 0))
            beside = max(beside, held + 4 * given.size)
            grams[size] = many + experts * count, beside
        yield job(
            f"factorise, {rows} x {columns}",
            tuple(Part(lower, calls=calls) for lower in called),
            held,
            remark=f"{number} on one device"
            + ("; its loops counted once" if len(called) == 1 else ""),
        )
    for size, (many, beside) in grams.items():
        lower = partial(device_svd.eigenvectors.lower, place((size, size)))
        yield job(
            f"factorise, eigenvectors of {size} x {size}",
            (Part(lower, calls=many),),
            beside,
            remark="one on one device; its loops counted once",
        )


def _prefill(run, weights, population, cache):
    rows, chunk = run.engine.prefill_rows, run.engine.prefill_chunk
    each = _whole(rows)
    given = PrefillChunk(_whole(rows, chunk), *[each] * 5)
    return programs.prefill.lower(
        weights, population, cache, given, _greedy(rows), key=_key(run)
    )


def _decode(run, weights, population, cache):
    slots = run.engine.slots
    return programs.decode.lower(
        weights,
        population,
        cache,
        DecodeState(*[_whole(slots)] * 4),
        _greedy(slots),
        None,
        key=_key(run),
        steps=run.engine.decode_steps,
        stop_ids=(0,),
    )


def _materialise(run: AbstractRun) -> Job:
    """One call for each matrix; those of one shape and place share a program."""
    weights, basis = run.weights(), run.placed_basis()
    found: dict[tuple, list] = {}
    for slot in basis.layout:
        base, u, v = weights[slot.name], basis.u[slot.name], basis.v[slot.name]
        found.setdefault((base, u, v), []).append(slot)
    scales = run.place(Shape((basis.num_experts,), jnp.float32))

    def lower(base, u, v):
        own = run.place(Shape((u.shape[1],), jnp.float32))
        return change_matrix.lower(
            base, (u, v, own), None, scales, base, factors=basis.factors_of
        )

    parts = [Part(partial(lower, *key), calls=len(own)) for key, own in found.items()]
    held = device_bytes((weights, weights, basis, run.cache()))
    return Job(
        "materialise",
        tuple(parts),
        held,
        remark="one matrix at a time",
        held_has_arguments=True,
        unrolls=False,
    )


def _train(run: AbstractRun) -> Job:
    """An update of a LoRA expert with the default settings."""
    settings, lora = OptimiserSettings(), LoraSettings()
    optimiser, method = make_optimiser(settings), Lora(lora.scale)
    state = jax.eval_shape(
        lambda key: init_state(init_factors(run.program, lora, key), optimiser),
        jax.random.key(0),
    )
    rows, length = settings.batch_size, run.engine.prefill_chunk
    tokens = _whole(rows, length)
    mask = Shape((rows, length), jnp.float32)
    lower = partial(
        train_step.lower,
        jax.tree.map(run.place, state),
        run.weights(),
        Batch(tokens, tokens, tokens, mask),
        program=run.program,
        method=method,
        optimiser=optimiser,
        recompute=True,
    )
    remark = f"LoRA, {rows} x {length} tokens"
    if run.mesh is not None:
        remark += "; experiments.train_experts itself uses one device"
    return Job("train", (Part(lower),), 0, remark=remark)


def _key(run: AbstractRun) -> ProgramKey:
    divided = None if run.mesh is None else sharding.cache_sharding(run.mesh)
    return ProgramKey(run.program, run.engine.length, cache_sharding=divided)


def _whole(*shape: int) -> Shape:
    return Shape(shape, jnp.int32)


def _greedy(rows: int) -> RowSampling:
    real, seeds = Shape((rows,), jnp.float32), Shape((rows,), jnp.uint32)
    return RowSampling(real, _whole(rows), real, seeds, _whole(rows))
