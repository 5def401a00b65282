"""Grouped-query attention over a key-value cache, one interface for all platforms.

Kinds of implementation, equal up to rounding:

- `xla`: plain matrix products, laid out for a CPU.
- `dot_product`: `jax.nn.dot_product_attention` as XLA compiles it.
- `cudnn`: the same through cuDNN; GPUs, 16-bit dtypes.
- `pallas`: for decoding, JAX's own kernels, which read only the filled part of each
  cache row: `decode_attention` on GPUs, `paged_attention` on TPUs (each cache row is a
  sequence of pages, so nothing is copied). JAX has no such kernel for a chunk that
  follows cached tokens, so prefill is as with `dot_product`.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from cycleqd_jax.errors import BadInputError

Kind = Literal["xla", "dot_product", "cudnn", "pallas"]
Setting = Literal["auto", "xla", "dot_product", "cudnn", "pallas"]
# Tokens per block of a kernel, best first.
_BLOCKS = (128, 64, 32, 16)
# Attention scores larger than this are computed row by row.
_CACHED_BYTES = 4 * 2**20


def choose_attention(
    setting: Setting,
    *,
    head_dim: int,
    dtype: jnp.dtype,
    devices: int = 1,
    platform: str | None = None,
) -> Kind:
    """The implementation to use on a platform.

    `auto` is `xla` on a CPU and `dot_product` on a GPU or TPU, which run everywhere
    there. The kernels of cuDNN and Pallas must be chosen by name.

    Args:
      setting: a kind, or `auto`.
      head_dim: of the model.
      dtype: of the computation.
      devices: number of devices in the mesh.
      platform: "cpu", "gpu" or "tpu"; this machine's by default.

    Raises:
      BadInputError: this platform, dtype, mesh or model cannot use it.
    """
    platform = platform or jax.default_backend()
    if setting == "auto":
        return "xla" if platform == "cpu" else "dot_product"
    wrong = None
    if setting == "cudnn" and platform != "gpu":
        wrong = f"a GPU, but this platform is {platform}"
    elif setting == "cudnn" and jnp.dtype(dtype).itemsize != 2:
        wrong = f"a 16-bit dtype, but dtype is {jnp.dtype(dtype).name}"
    elif setting == "pallas" and platform not in ("gpu", "tpu"):
        wrong = f"a GPU or TPU, but this platform is {platform}"
    elif setting == "pallas" and devices > 1:
        wrong = f"one device, but the mesh has {devices}"
    elif setting == "pallas" and platform == "tpu" and head_dim % 128:
        wrong = f"heads of a multiple of 128 on a TPU, but they have {head_dim}"
    if wrong is not None:
        raise BadInputError(
            f"engine.attention is {setting}, which needs {wrong}; set it to auto."
        )
    return setting


def attend(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    positions: jax.Array,
    segments: jax.Array | None = None,
    *,
    kind: Kind = "xla",
    window: int | None = None,
) -> jax.Array:
    """Causal softmax attention: a query attends to keys at or before its position.

    Args:
      queries: `[B, L, heads, head_dim]`, rotated.
      keys: `[B, kv_heads, S, head_dim]`, rotated; entry j belongs to position j.
      values: `[B, kv_heads, S, head_dim]`.
      positions: int32 `[B, L]`, the position of each query.
      segments: int32 `[B, L]` (then S is L): a query attends to its own segment only.
      kind: the implementation; static. JAX's kernels for decoding have no window.
      window: how many positions a query attends to, its own included; None for all.
        Static.

    Returns:
      `[B, L, heads * head_dim]`, in the dtype of `queries`; the softmax is float32.
    """
    if window is not None and window >= keys.shape[2]:
        window = None
    if kind == "xla":
        return _plain(queries, keys, values, positions, segments, window)
    plain = segments is None and window is None
    if kind == "pallas" and plain and queries.shape[1] == 1:
        if _block(keys.shape[2]) is not None:
            lengths = jnp.minimum(positions[:, 0] + 1, keys.shape[2])
            given = (queries[:, 0], keys, values, lengths)
            # By the platform that the program is compiled for, not by the host's.
            kernels = {"tpu": _paged, "cuda": _decode, "rocm": _decode}
            return jax.lax.platform_dependent(*given, **kernels)[:, None]
    return _dot_product(
        queries, keys, values, positions, segments, window, cudnn=kind == "cudnn"
    )


def attend_twice(
    queries: jax.Array,
    cached: tuple[jax.Array, jax.Array],
    held: tuple[jax.Array, jax.Array],
    filled: jax.Array,
    step: jax.Array,
    window: int | None = None,
) -> jax.Array:
    """Softmax attention over cached tokens and the few after them that are held back.

    Args:
      queries: `[B, 1, heads, head_dim]`, rotated.
      cached: keys and values, `[B, kv_heads, S, head_dim]` each.
      held: those of the tokens after them, `[B, kv_heads, N, head_dim]` each.
      filled: int32 `[B]`, how many of the S tokens each row has.
      step: int32 `[]`, index of the newest of the N tokens, which all rows see.
      window: as for `attend`.

    Returns:
      `[B, 1, heads * head_dim]`, in the dtype of `queries`; the softmax is float32.
    """
    batch, _, heads, head_dim = queries.shape
    span, count = cached[0].shape[2], held[0].shape[2]
    q = queries.reshape(batch, cached[0].shape[1], -1, head_dim)
    scores = [
        jnp.einsum("bhqd,bhsd->bhqs", q, keys, preferred_element_type=jnp.float32)
        for keys, _ in (cached, held)
    ]
    visible = [
        jnp.arange(span) < filled[:, None],
        jnp.broadcast_to(jnp.arange(count) <= step, (batch, count)),
    ]
    if window is not None:
        visible[0] &= jnp.arange(span) > filled[:, None] + step - window
        visible[1] &= jnp.arange(count) > step - window
    # Scores are small; keys and values are never joined.
    scores = jnp.concatenate(scores, axis=-1) * (head_dim**-0.5)
    visible = jnp.concatenate(visible, axis=-1)[:, None, None]
    scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    shares = jax.nn.softmax(scores, axis=-1).astype(cached[1].dtype)
    mixed = [
        jnp.einsum("bhqs,bhsd->bhqd", part, values, preferred_element_type=jnp.float32)
        for part, (_, values) in zip(
            (shares[..., :span], shares[..., span:]), (cached, held), strict=True
        )
    ]
    return (mixed[0] + mixed[1]).astype(q.dtype).reshape(batch, 1, heads * head_dim)


def _plain(queries, keys, values, positions, segments, window):
    """Plain products; long rows one by one, so that scores stay in the CPU's cache.

    The scores of all rows together would be written to memory and read again in every
    step of the softmax.
    """
    batch, length, heads, _ = queries.shape
    scores = batch * heads * length * keys.shape[2] * 4
    if batch == 1 or length == 1 or scores <= _CACHED_BYTES:
        return _products(queries, keys, values, positions, segments, window)

    def one(row):
        row = jax.tree.map(lambda a: a[None], row)
        return _products(*row, window)[0]

    return jax.lax.map(one, (queries, keys, values, positions, segments))


def _products(queries, keys, values, positions, segments, window):
    """Batched matrix products over key-value heads, without transposing the cache."""
    batch, length, heads, head_dim = queries.shape
    kv_heads, span = keys.shape[1], keys.shape[2]
    group = heads // kv_heads
    q = queries.reshape(batch, length, kv_heads, group, head_dim)
    q = q.transpose(0, 2, 3, 1, 4).reshape(batch, kv_heads, group * length, head_dim)
    scores = jnp.einsum("bhqd,bhsd->bhqs", q, keys, preferred_element_type=jnp.float32)
    scores = scores * (head_dim**-0.5)
    visible = _visible(positions, segments, span, window)[:, :, None]  # [B, 1, 1, L, S]
    scores = scores.reshape(batch, kv_heads, group, length, span)
    scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    shares = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    shares = shares.reshape(batch, kv_heads, group * length, span)
    mixed = jnp.einsum("bhqs,bhsd->bhqd", shares, values)
    mixed = mixed.reshape(batch, kv_heads, group, length, head_dim)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads * head_dim)


def _dot_product(queries, keys, values, positions, segments, window, *, cudnn: bool):
    batch, length, heads, head_dim = queries.shape
    mixed = jax.nn.dot_product_attention(
        queries,
        keys.swapaxes(1, 2),
        values.swapaxes(1, 2),
        mask=_visible(positions, segments, keys.shape[2], window),
        implementation="cudnn" if cudnn else "xla",
    )
    return mixed.reshape(batch, length, heads * head_dim)


def _visible(positions, segments, span: int, window: int | None) -> jax.Array:
    """The keys that each query attends to, bool `[B, 1, L, S]`."""
    places = positions[:, None, :, None]
    visible = jnp.arange(span) <= places
    if window is not None:
        visible &= jnp.arange(span) > places - window
    if segments is not None:
        visible &= (segments[:, :, None] == segments[:, None, :])[:, None]
    return visible


def _decode(queries, keys, values, lengths, *, interpret: bool = False) -> jax.Array:
    """One query per row, `[B, heads, head_dim]`, with JAX's Triton kernel.

    Each pair of a row and a key-value head is one sequence for the kernel, so the cache
    is used in place.
    """
    from jax.experimental.pallas.ops.gpu.decode_attention import mqa

    batch, _, span, _ = keys.shape
    q, k, v, lengths = _by_head(queries, keys, values, lengths)
    splits = next(n for n in (16, 8, 4, 2, 1) if span % (16 * n) == 0)
    mixed = mqa(
        q,
        k,
        v,
        kv_seq_len=lengths,
        k_splits=splits,
        block_k=_block(span // splits),
        interpret=interpret,
    )
    return mixed.reshape(batch, -1)


def _paged(queries, keys, values, lengths) -> jax.Array:
    """As `_decode`, with JAX's TPU kernel, which multiplies in bfloat16."""
    from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention

    batch, kv_heads, span, head_dim = keys.shape
    q, k, v, lengths = _by_head(queries, keys, values, lengths)
    page = _block(span)
    pages = span // page
    shape = (1, batch * kv_heads * pages, page, head_dim)
    mixed = paged_attention(
        q * (head_dim**-0.5),
        k.reshape(shape),
        v.reshape(shape),
        lengths,
        jnp.arange(shape[1], dtype=jnp.int32).reshape(-1, pages),
        pages_per_compute_block=math.gcd(pages, 4),
    )
    return mixed.reshape(batch, -1)


def _by_head(queries, keys, values, lengths):
    """Merges rows and key-value heads into one dimension."""
    batch, kv_heads, span, head_dim = keys.shape
    whole = (batch * kv_heads, span, head_dim)
    q = queries.reshape(batch * kv_heads, -1, head_dim)
    lengths = jnp.repeat(lengths, kv_heads).astype(jnp.int32)
    return q, keys.reshape(whole), values.reshape(whole), lengths


def _block(span: int) -> int | None:
    """The largest block size that divides a span, or None."""
    return next((block for block in _BLOCKS if span % block == 0), None)
