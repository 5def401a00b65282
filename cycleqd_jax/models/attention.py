"""Grouped-query attention over a key-value cache, one interface for all platforms."""

import jax
import jax.numpy as jnp


def attend(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    positions: jax.Array,
    segments: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention in which a query sees every key at or before its position.

    Plain XLA: the key-value heads lead both operands, so that on a CPU the products
    are batched matrix products without a transposed copy of the cache.

    Args:
      queries: `[B, L, heads, head_dim]`, rotated.
      keys: `[B, kv_heads, S, head_dim]`, rotated; entry j belongs to position j.
      values: `[B, kv_heads, S, head_dim]`.
      positions: int32 `[B, L]`, the position of each query.
      segments: int32 `[B, L]` where S is L: a query sees its own segment only.

    Returns:
      `[B, L, heads * head_dim]`, in the dtype of `queries`; the softmax is float32.
    """
    batch, length, heads, head_dim = queries.shape
    kv_heads, span = keys.shape[1], keys.shape[2]
    group = heads // kv_heads
    q = queries.reshape(batch, length, kv_heads, group, head_dim)
    q = q.transpose(0, 2, 3, 1, 4).reshape(batch, kv_heads, group * length, head_dim)
    scores = jnp.einsum("bhqd,bhsd->bhqs", q, keys, preferred_element_type=jnp.float32)
    scores = scores * (head_dim**-0.5)
    visible = jnp.arange(span) <= positions[:, None, None, :, None]  # [B, 1, 1, L, S]
    if segments is not None:
        visible &= (segments[:, :, None] == segments[:, None, :])[:, None, None]
    scores = scores.reshape(batch, kv_heads, group, length, span)
    scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    shares = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    shares = shares.reshape(batch, kv_heads, group * length, span)
    mixed = jnp.einsum("bhqs,bhsd->bhqd", shares, values)
    mixed = mixed.reshape(batch, kv_heads, group, length, head_dim)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads * head_dim)
