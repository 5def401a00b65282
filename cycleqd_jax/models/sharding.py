"""Where weights and cache lie on a mesh: dimensions by name, names by one table.

The mesh has the axes `data` (slots, individuals) and `tensor` (heads, feed-forward,
vocabulary). Programs are compiled by `jax.jit` from where their arguments lie.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cycleqd_jax.errors import BadInputError

AXES = ("data", "tensor")

# Logical dimension -> mesh axis; None is replicated.
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
# Weight name -> the names of its dimensions; a weight that matches no row is an error.
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
    """A mesh over the first `data * tensor` devices.

    Raises:
      BadInputError: there are fewer devices.
    """
    devices = jax.devices()
    if data * tensor > len(devices):
        raise BadInputError(
            f"mesh: data {data} times tensor {tensor} needs {data * tensor} devices, "
            f"but there are {len(devices)}; make the mesh smaller."
        )
    grid = np.asarray(devices[: data * tensor]).reshape(data, tensor)
    return Mesh(grid, AXES)


def spec(*logical: str) -> PartitionSpec:
    """The partition of one array, from the logical name of each dimension.

    Raises:
      ValueError: two dimensions would lie on one mesh axis.
    """
    axes = [AXIS_RULES[name] for name in logical]
    used = [axis for axis in axes if axis is not None]
    if len(used) != len(set(used)):
        raise ValueError(f"{logical} puts two dimensions on one mesh axis: {axes}.")
    return PartitionSpec(*axes)


def weight_spec(name: str) -> PartitionSpec:
    """The partition of one weight.

    Raises:
      ValueError: no rule knows it.
    """
    for pattern, logical in _WEIGHT_RULES:
        if re.fullmatch(pattern, name):
            return spec(*logical)
    raise ValueError(f"sharding: no rule for the weight {name}; add one.")


def place_weights(weights: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """The weights on a mesh, sharded by the rules.

    Raises:
      BadInputError: a dimension cannot be divided among the mesh's devices.
    """
    placed = {}
    for name, weight in weights.items():
        partition = weight_spec(name)
        for size, axis in zip(weight.shape, partition, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise BadInputError(
                    f"mesh: {name} has {size} rows or columns for {mesh.shape[axis]} "
                    f"devices on the axis {axis}; choose a divisor of {size}."
                )
        placed[name] = jax.device_put(weight, NamedSharding(mesh, partition))
    return placed


def cache_sharding(mesh: Mesh) -> NamedSharding:
    """Of every array of the cache, `[slots, kv_heads, length, head_dim]`."""
    return NamedSharding(mesh, spec(*_CACHE))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy of every array on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
