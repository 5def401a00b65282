"""Rule tables that divide weights and cache among the devices of a mesh.

The mesh has the axes `data` (slots, individuals) and `tensor` (heads, feed-forward,
vocabulary). `jax.jit` compiles programs for the placement of their arguments.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cycleqd_jax.errors import BadInputError

AXES = ("data", "tensor")

# Logical dimension -> mesh axis; None means replicated.
AXIS_RULES = {
    "slot": "data",
    "heads": "tensor",
    "kv_heads": "tensor",
    "ffn": "tensor",
    "vocab": "tensor",
    "embed": None,
    "length": None,
    "head_dim": None,
}
# Weight name -> its logical dimensions. A weight that matches no row is replicated.
_WEIGHT_RULES = (
    (r"model\.embed_tokens\.weight|lm_head\.weight", ("vocab", "embed")),
    (r".*\.q_proj\.weight", ("heads", "embed")),
    (r".*\.[kv]_proj\.weight", ("kv_heads", "embed")),
    (r".*\.o_proj\.weight", ("embed", "heads")),
    (r".*\.(gate|up)_proj\.weight", ("ffn", "embed")),
    (r".*\.down_proj\.weight", ("embed", "ffn")),
    (r".*\.q_proj\.bias", ("heads",)),
    (r".*\.[kv]_proj\.bias", ("kv_heads",)),
    (r".*\.(gate|up)_proj\.bias", ("ffn",)),
    (r".*\.(o|down)_proj\.bias", ("embed",)),
    (r".*norm\.weight", ("embed",)),
)
_CACHE = ("slot", "kv_heads", "length", "head_dim")


def make_mesh(data: int = 1, tensor: int = 1) -> Mesh:
    """A mesh over the first `data * tensor` devices, of all processes of a run.

    Raises:
      BadInputError: there are fewer devices, or the last process has none of them.
    """
    devices = jax.devices()
    if data * tensor > len(devices):
        raise BadInputError(
            f"engine.mesh: data {data} times tensor {tensor} needs {data * tensor} "
            f"devices, but there are {len(devices)}; make the mesh smaller."
        )
    if {d.process_index for d in devices} != {
        d.process_index for d in devices[: data * tensor]
    }:
        raise BadInputError(
            f"engine.mesh: data {data} times tensor {tensor} leaves out whole hosts; "
            f"the {jax.process_count()} processes of this run have {len(devices)} "
            f"devices, so choose two numbers whose product is {len(devices)}, or set "
            "distributed to off."
        )
    grid = np.asarray(devices[: data * tensor]).reshape(data, tensor)
    return Mesh(grid, AXES)


def spec(*logical: str) -> PartitionSpec:
    """The partition of one array, from the logical name of each dimension.

    Raises:
      ValueError: two dimensions map to one mesh axis.
    """
    axes = [AXIS_RULES[name] for name in logical]
    used = [axis for axis in axes if axis is not None]
    if len(used) != len(set(used)):
        raise ValueError(f"{logical} puts two dimensions on one mesh axis: {axes}.")
    return PartitionSpec(*axes)


def num_parts(partition: PartitionSpec, data: int, tensor: int) -> int:
    """The number of devices that an array is divided among; others hold copies.

    Args:
      partition: of the array.
      data: devices along that axis of the mesh.
      tensor: likewise.
    """
    sizes = dict(zip(AXES, (data, tensor), strict=True))
    return math.prod(sizes[axis] for axis in partition if axis is not None)


def weight_spec(name: str) -> PartitionSpec:
    """The partition of one weight; one without a rule is replicated."""
    for pattern, logical in _WEIGHT_RULES:
        if re.fullmatch(pattern, name):
            return spec(*logical)
    return PartitionSpec()


def place_weights(weights: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts weights on a mesh, sharded by the rules.

    Stored weights are read one array at a time, and each array only where it lies.

    Raises:
      BadInputError: a dimension cannot be divided among the mesh's devices.
    """
    placed = {}
    for name in weights:
        partition = weight_spec(name)
        stored = hasattr(weights, "part")  # lies in a file
        array = None if stored else weights[name]
        shape = weights.outline(name)[0] if stored else array.shape
        for size, axis in zip(shape, partition, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise BadInputError(
                    f"engine.mesh: {axis} is {mesh.shape[axis]}, but {name} has a side "
                    f"of {size}; choose a divisor of {size}."
                )
        sharding = NamedSharding(mesh, partition)
        if stored:
            placed[name] = _read_parts(weights, name, sharding)
        else:
            placed[name] = put(array, sharding)
    return placed


def put(array: Any, sharding: NamedSharding) -> jax.Array:
    """Puts an array where it belongs.

    A mesh may have devices of other processes; each then calls this with the same
    array, and copies its own parts.
    """
    is_placed = isinstance(array, jax.Array) and not array.is_fully_addressable
    if sharding.is_fully_addressable or is_placed:
        return jax.device_put(array, sharding)
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)


def _read_parts(weights: Any, name: str, sharding: NamedSharding) -> jax.Array:
    """An array from its file; this host reads only the rows that its devices hold."""
    parts: dict[str, np.ndarray] = {}  # replicas are read once

    def part(index: tuple[slice, ...]) -> np.ndarray:
        if (key := str(index)) not in parts:
            parts[key] = weights.part(name, index)
        return parts[key]

    return jax.make_array_from_callback(weights.outline(name)[0], sharding, part)


def check_sizes(mesh: Mesh, *, slots: int, kv_heads: int) -> None:
    """Checks that a cache can be divided among the mesh's devices.

    Raises:
      BadInputError: it cannot; names the size and the divisors that fit.
    """
    for axis, setting, size in (
        ("data", "engine.slots", slots),
        ("tensor", "the model's number of key-value heads", kv_heads),
    ):
        count = mesh.shape[axis]
        if size % count:
            fits = ", ".join(str(n) for n in range(1, count + 1) if size % n == 0)
            raise BadInputError(
                f"engine.mesh: {axis} is {count}, but {setting} is {size}; choose a "
                f"divisor of {size} (up to {count}: {fits})."
            )


def place_directions(
    u: Mapping[str, Any], v: Mapping[str, Any], mesh: Mesh
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Puts directions, `[out, R]` and `[in, R]`, on a mesh, sharded as their matrices.

    Arrays that are there already are not copied.
    """
    return tuple(
        {
            name: put(side, direction_sharding(name, dimension, mesh))
            for name, side in sides.items()
        }
        for dimension, sides in enumerate((u, v))
    )


def direction_sharding(name: str, dimension: int, mesh: Mesh) -> NamedSharding:
    """Sharding of a matrix's directions, `[out, R]` (dimension 0) or `[in, R]` (1)."""
    axis = (*weight_spec(name), None, None)[dimension]  # no rule: replicated
    return NamedSharding(mesh, PartitionSpec(axis, None))


def by_slot(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays whose first dimension is the slot."""
    return NamedSharding(mesh, spec("slot"))


def cache_spec() -> PartitionSpec:
    """The partition of the cache's arrays, `[slots, kv_heads, length, head_dim]`."""
    return spec(*_CACHE)


def cache_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of the cache's arrays, `[slots, kv_heads, length, head_dim]`."""
    return NamedSharding(mesh, cache_spec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy of every array on every device."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda array: put(array, everywhere), tree)


def put_on_device(
    weights: Mapping[str, Any], mesh: Mesh | None = None
) -> dict[str, jax.Array]:
    """Flat weights as JAX arrays, sharded over a mesh or on one device."""
    if mesh is not None:
        return place_weights(weights, mesh)
    return {name: jnp.asarray(array) for name, array in weights.items()}
