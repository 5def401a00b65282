"""Suite `scale`: the parts of a run at the sizes of large models, against the limits.

Matrices are random and of the model's shapes; whole models and their experts are not
needed. What the device at hand is too small for is not run.
"""

import collections
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from cycleqd_jax.inference import programs
from cycleqd_jax.inference.population import Population
from cycleqd_jax.inference.programs import DecodeState, ProgramKey
from cycleqd_jax.inference.sampling import RowSampling
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.merging.device_svd import OVERSAMPLING, batch_svd
from cycleqd_jax.merging.forms import DiagonalBasis
from cycleqd_jax.merging.materialise import change_matrix
from cycleqd_jax.models.base import EMBEDDING, HEAD, ModelConfig
from experiments.benchmarks import frame
from experiments.scale.abstract import AbstractRun, device_bytes, make_run
from experiments.scale.chips import Target, find_target

_RANK, _EXPERTS = 64, 3
_PRODUCTS = 10  # of a matrix with the random subspace, in `device_svd`
_DECODES = ((1, 64), (8, 64), (1, 256), (8, 256))  # individuals, slots
_LENGTH, _STEPS = 2048, 16
_BANDWIDTH_SHARE, _BYTES_SHARE = 0.7, 1 / 1.5  # to reach on an accelerator


def run(options: frame.Options, say: frame.Say) -> list[frame.Row]:
    """Measures the suite; of the model only the sizes are needed.

    Raises:
      BadInputError: they are not known.
    """
    config, target = frame.known_config(options), find_target("local")
    rows = [
        frame.figure("memory bandwidth", target.limits.bandwidth / 1e9, "GB/s"),
        frame.figure("matrix products", target.limits.rate / 1e12, "TFLOP/s"),
    ]
    rows += list(_matrices(options, config, target, say))
    for individuals, slots in _DECODES:
        say(f"decode, {individuals} individuals, {slots} slots")
        rows.append(_decode(options, config, target, individuals, slots))
    return rows


def is_accelerator(target: Target) -> bool:
    """True if a model of many parameters runs here, in bfloat16."""
    return target.devices[0].platform != "cpu"


def layer_shapes(config: ModelConfig) -> dict[tuple[int, int], int]:
    """The shapes of the layers' matrices, and how often each is in the model."""
    return collections.Counter(
        shape
        for name, shape in config.weight_shapes().items()
        if len(shape) == 2 and name not in (EMBEDDING, HEAD)
    )


def _matrices(
    options: frame.Options, config: ModelConfig, target: Target, say: frame.Say
) -> Iterator[frame.Row]:
    """Factorising and materialising one matrix of each shape, and all of them."""
    dtype = jnp.bfloat16 if is_accelerator(target) else jnp.float32
    factorised = materialised = 0.0
    moved = 0
    for shape, count in layer_shapes(config).items():
        text = f"{shape[0]} x {shape[1]}"
        say(f"a matrix of {text}")
        matrix = jax.random.normal(jax.random.key(0), (1, *shape), jnp.float32)
        base = matrix[0].astype(dtype)
        rank = min(_RANK, *shape)
        found = batch_svd(matrix, rank, dtype.dtype.name)
        u, v = (jnp.tile(side[0], (1, _EXPERTS)) for side in (found.u, found.v))
        own = jnp.ones((_EXPERTS * rank,), jnp.float32)
        child = jnp.zeros_like(base)

        def one_child(base=base, change=(u, v, own)):
            nonlocal child
            child = change_matrix(
                base,
                change,
                None,
                jnp.ones(_EXPERTS),
                child,
                factors=DiagonalBasis.factors_of,
            )
            return child

        took = frame.medians(
            frame.measure(
                {
                    "factorise": lambda m=matrix, r=rank: batch_svd(
                        m, r, dtype.dtype.name
                    ),
                    "materialise": one_child,
                },
                options.repeats,
            )
        )
        operations = 2 * _PRODUCTS * math.prod(shape) * (rank + OVERSAMPLING)
        yield frame.compare(
            f"factorise {text} to rank {rank}",
            took["factorise"],
            operations / target.limits.rate,
            "s",
            note="the limit: its products with the random subspace, each one pass",
        )
        least = 2 * base.nbytes + u.nbytes + v.nbytes
        yield frame.compare(
            f"materialise {text}, {_EXPERTS} experts of rank {rank}",
            took["materialise"],
            least / target.limits.bandwidth,
            "s",
            target=_BYTES_SHARE if is_accelerator(target) else None,
            note="the limit: its bytes, read and written once",
        )
        factorised += count * _EXPERTS * took["factorise"]
        materialised += count * took["materialise"]
        moved += count * least
    note = "added up from one matrix of each shape; without embedding and head"
    yield frame.figure(
        f"factorise all layers of {_EXPERTS} experts", factorised, "s", note=note
    )
    yield frame.compare(
        "materialise all layers of a child",
        materialised,
        moved / target.limits.bandwidth,
        "s",
        note=note,
    )


def _decode(
    options: frame.Options,
    config: ModelConfig,
    target: Target,
    individuals: int,
    slots: int,
) -> frame.Row:
    """A decode step of all slots, of one device; one individual is materialised."""
    mode = "materialised" if individuals == 1 else f"{individuals} individuals"
    name = f"decode, {slots} slots x {_LENGTH}, {mode}"
    dtype = "bfloat16" if is_accelerator(target) else "float32"
    engine = EngineSettings(
        slots=slots, length=_LENGTH, prefill_rows=8, decode_steps=_STEPS
    )
    abstract = make_run(
        config, dtype, engine, target.devices[:1], individuals=individuals, rank=_RANK
    )
    least = _needed(abstract, individuals)
    if 1.5 * least > target.limits.memory / 2 or not is_accelerator(target):
        return frame.not_measured(name, "s", _BANDWIDTH_SHARE)
    took = frame.medians(
        frame.measure({"decode": _stepper(abstract, individuals)}, options.repeats)
    )
    return frame.compare(
        name,
        took["decode"] / _STEPS,
        least / target.limits.bandwidth,
        "s",
        target=_BANDWIDTH_SHARE,
        note="the limit: weights, directions and cache, read once",
    )


def _needed(abstract: AbstractRun, individuals: int) -> int:
    """Bytes that a decode step must read."""
    population = abstract.population() if individuals > 1 else Population()
    return device_bytes(
        (abstract.weights(), abstract.cache(), population.u, population.v)
    )


def _stepper(abstract: AbstractRun, individuals: int):
    """A function that makes one decode call with arrays of zeros."""

    def zeros(tree):
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), tree)

    weights, cache = zeros(abstract.weights()), zeros(abstract.cache())
    population = zeros(abstract.population()) if individuals > 1 else Population()
    slots = abstract.engine.slots
    whole = jnp.zeros((slots,), jnp.int32)
    real = jnp.zeros((slots,), jnp.float32)
    state = DecodeState(
        whole,
        whole + (_LENGTH - _STEPS - 1),
        jnp.arange(slots, dtype=jnp.int32) % individuals,
        whole + _STEPS + 1,
    )
    sampling = RowSampling(real, whole, real + 1, whole.astype(jnp.uint32), whole)
    key = ProgramKey(abstract.program, _LENGTH)

    def call():
        nonlocal cache
        tokens, _, _, cache = programs.decode(
            weights, population, cache, state, sampling, None,
            key=key, steps=_STEPS, stop_ids=(),
        )  # fmt: skip
        return tokens

    return call
