"""Attention of new tokens to those in the cache, and what it leaves there.

B, L and S are as in `models.base`.
"""

from typing import NamedTuple, Self

import jax
import jax.numpy as jnp

from cycleqd_jax.models.attention import Kind, attend, attend_twice
from cycleqd_jax.models.base import CacheView

KeysValues = tuple[jax.Array, jax.Array]  # of one layer


class LayerView(NamedTuple):
    """Places of the new tokens, and the part of the cache that they see in one layer.

    Attributes:
      positions: int32 `[B, L]`, the index of each new token in its row.
      segments: int32 `[B, L]` where rows are packed, else None.
      view: the part of the cache that the batch uses, without arrays; None without a
        cache.
      cached: the cache's keys and values, `[rows, kv_heads, S, head_dim]` each; None
        without a cache.
      held: with `view.held`, those that are held back, `[B, kv_heads, N, head_dim]`
        each.
    """

    positions: jax.Array
    segments: jax.Array | None = None
    view: CacheView | None = None
    cached: KeysValues | None = None
    held: KeysValues | None = None

    def of_layer(self, layer: int, view: CacheView | None) -> Self:
        """The same in a layer, by its number; `view` has the arrays of all layers."""
        if view is None:
            return self
        cached = (view.cache.keys[layer], view.cache.values[layer])
        if (held := view.held) is None:
            return self._replace(view=view._replace(cache=None), cached=cached)
        return self._replace(
            view=view._replace(cache=None, held=held._replace(cache=None)),
            cached=cached,
            held=(held.cache.keys[layer], held.cache.values[layer]),
        )


def attend_cached(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    seen: LayerView,
    *,
    kind: Kind = "xla",
    window: int | None = None,
) -> tuple[jax.Array, KeysValues]:
    """Causal softmax attention of new tokens to one another and to the cache.

    Args:
      queries: `[B, L, heads, head_dim]`, rotated.
      keys: `[B, L, kv_heads, head_dim]`, rotated.
      values: `[B, L, kv_heads, head_dim]`.
      seen: the tokens' places, and the layer's cache.
      kind: the implementation, as for `attend`. Static.
      window: how many positions a query attends to, its own included; None for all.
        Static.

    Returns:
      `[B, L, heads * head_dim]`, in the dtype of `queries`; and the cache with the new
      keys and values (without a cache: only the new ones; with `held`: those held
      back).
    """
    view, cached, positions = seen.view, seen.cached, seen.positions
    if seen.held is not None:
        filled, step = view.held.filled, view.held.step
        held = tuple(
            jax.lax.dynamic_update_index_in_dim(
                old, new[:, 0].astype(old.dtype), step, axis=2
            )
            for old, new in zip(seen.held, (keys, values), strict=True)
        )
        cached = tuple(a[:, :, : view.span] for a in cached)
        return attend_twice(queries, cached, held, filled, step, window), held
    if view is None:
        cached = read = (keys.swapaxes(1, 2), values.swapaxes(1, 2))
    else:
        rows = jnp.arange(queries.shape[0]) if view.rows is None else view.rows
        cached = tuple(
            _write(old, rows, positions, new.astype(old.dtype))
            for old, new in zip(cached, (keys, values), strict=True)
        )
        read = tuple(a[:, :, : view.span] for a in cached)
        if view.rows is not None:
            read = tuple(a.at[rows].get(mode="clip") for a in read)
    mixed = attend(queries, *read, positions, seen.segments, kind=kind, window=window)
    return mixed, cached


def _write(
    old: jax.Array, rows: jax.Array, positions: jax.Array, new: jax.Array
) -> jax.Array:
    """The cache with new entries; those at positions outside are dropped."""
    given = (old, rows, positions, new)
    if old.dtype != jnp.bfloat16:
        return _set(*given)
    return jax.lax.platform_dependent(*given, cpu=_set_bits, default=_set)


def _set(old, rows, positions, new):
    return old.at[rows[:, None], :, positions].set(new, mode="drop")


def _set_bits(old, rows, positions, new):
    """As `_set`. A CPU would convert all of the cache to float32 and back."""
    old, new = (jax.lax.bitcast_convert_type(x, jnp.uint16) for x in (old, new))
    done = _set(old, rows, positions, new)
    return jax.lax.bitcast_convert_type(done, jnp.bfloat16)
