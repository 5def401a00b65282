"""The memory of a run on each of its devices, from shapes and the rules of the mesh.

Compiled programs are the measure: `experiments.scale_check` reads them.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from cycleqd_jax.inference.settings import EngineSettings, MeshSettings
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.models import sharding
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.models.families import make_program

WEIGHTS, BASIS, CACHE = "the base weights", "the basis", "the KV cache"
CALL = "a call of the engine"


def tree_bytes(tree: Any) -> int:
    """The size of all arrays of a pytree, or of their shapes."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def device_memory(
    model: ModelConfig,
    basis: Basis,
    engine: EngineSettings,
    *,
    mode: str,
    dtype: str,
    individuals: int,
) -> dict[str, int]:
    """Bytes on each device by purpose, while individuals are evaluated.

    Args:
      model: sizes of the base model.
      basis: of the experts, or its shapes.
      engine: its settings; slots or a length of "auto" count with the least.
      mode: "factored" or "materialised".
      dtype: of weights and computation.
      individuals: that share a pass in factored mode.
    """
    mesh, shapes = engine.mesh, model.weight_shapes()
    weights = {n: jax.ShapeDtypeStruct(s, jnp.dtype(dtype)) for n, s in shapes.items()}
    if mode == "factored":
        from cycleqd_jax.inference.population import empty_population

        population = jax.eval_shape(lambda b: empty_population(b, individuals), basis)
        workspace = tree_bytes((population.coefficients, population.vectors))
        # The engine's copy of directions that are not in the model's dtype.
        workspace += sum(
            tree_bytes(jax.ShapeDtypeStruct(a.shape, jnp.dtype(dtype)))
            // _parts(_side(name, dimension), mesh)
            for dimension, sides in enumerate((basis.u, basis.v))
            for name, a in sides.items()
            if a.dtype != jnp.dtype(dtype)
        )
    else:  # one individual's weights, and the product that changes its largest matrix
        changed = {name: weights[name] for name in (*basis.u, *basis.deltas)}
        workspace = _divided(changed, sharding.weight_spec, mesh)
        # Weights in float32 take their sum with the product in its place.
        whole = 0 if jnp.dtype(dtype) == jnp.float32 else 1
        products = (
            whole * math.prod(shapes[name]) // _parts(sharding.weight_spec(name), mesh)
            + math.prod(u.shape) // _parts(_side(name, 0), mesh)
            for name, u in basis.u.items()
        )
        workspace += 4 * max(products, default=0)
    cache = _slots(engine) * _length(engine) * cache_bytes(model, dtype)
    return {
        WEIGHTS: _divided(weights, sharding.weight_spec, mesh),
        BASIS: _basis_bytes(basis, mesh),
        CACHE: cache // (mesh.data * mesh.tensor),
        CALL: max(
            _prefill_bytes(model, engine, jnp.dtype(dtype).itemsize),
            _decode_bytes(model, engine, basis, mode),
        ),
        f"{mode} mode": workspace,
    }


def cache_bytes(model: ModelConfig, dtype: jnp.dtype | str) -> int:
    """The size of one token's keys and values."""
    program = make_program(model, dtype)
    return tree_bytes(jax.eval_shape(lambda: program.empty_cache(1, 1)))


def _slots(engine: EngineSettings) -> int:
    return engine.prefill_rows if engine.slots == "auto" else engine.slots


def _length(engine: EngineSettings) -> int:
    return engine.prefill_chunk if engine.length == "auto" else engine.length


def _prefill_bytes(model: ModelConfig, engine: EngineSettings, itemsize: int) -> int:
    """Hidden states, and a layer's scores with the cache's rows or its MLP."""
    rows, length, tensor = engine.prefill_rows, _length(engine), engine.mesh.tensor
    tokens = rows * engine.prefill_chunk
    seen = 2 * rows * length * model.num_key_value_heads * model.head_dim * itemsize
    # In float32, and the softmax in the model's dtype.
    scores = (4 + itemsize) * tokens * length * model.num_attention_heads
    mlp = 2 * tokens * model.intermediate_size * itemsize
    hidden = 4 * tokens * model.hidden_size * itemsize
    return hidden + max(seen + scores, mlp) // tensor


def _decode_bytes(
    model: ModelConfig, engine: EngineSettings, basis: Basis, mode: str
) -> int:
    """Logits; in factored mode those of the directions and each row's coefficients."""
    slots, mesh = -(-_slots(engine) // engine.mesh.data), engine.mesh
    logits = 4 * slots * model.vocab_size // mesh.tensor
    if mode != "factored":
        return logits
    return 2 * (logits + 4 * slots * basis.genome_size)


def _basis_bytes(basis: Basis, mesh: MeshSettings) -> int:
    """As `population.place_basis` divides it; all but matrices is copied to each."""
    whole = tree_bytes(basis.replace(u={}, v={}, residuals={}))
    return (
        whole
        + _divided(basis.u, lambda name: _side(name, 0), mesh)
        + _divided(basis.v, lambda name: _side(name, 1), mesh)
        + _divided(basis.residuals, sharding.weight_spec, mesh)
    )


def _side(name: str, dimension: int) -> PartitionSpec:
    """The partition of directions `[out, R]` (0) or `[in, R]` (1)."""
    return PartitionSpec((*sharding.weight_spec(name), None, None)[dimension])


def _divided(
    arrays: Mapping[str, Any],
    partition: Callable[[str], PartitionSpec],
    mesh: MeshSettings,
) -> int:
    return sum(
        tree_bytes(array) // _parts(partition(name), mesh)
        for name, array in arrays.items()
    )


def _parts(partition: PartitionSpec, mesh: MeshSettings) -> int:
    return sharding.num_parts(partition, mesh.data, mesh.tensor)
