"""The image encoder: a vision transformer with windowed and global attention.

Source: ViTDet (arXiv 2203.16527), decomposed relative positions of MViTv2
(arXiv 2112.01526); checked against `transformers`.
"""

import jax
import jax.numpy as jnp

from cycleqd_jax.models.sam.config import MOST_TOKENS, SamConfig
from cycleqd_jax.models.sam.layers import Parameters, activate
from cycleqd_jax.models.sam.parts import VisionConfig, window_of

_NECK_EPSILON = 1e-6


def encode_images(
    parameters: Parameters, config: SamConfig, pixels: jax.Array
) -> jax.Array:
    """Embeds images.

    Args:
      parameters: the weights and the additions of each row.
      config: the model's.
      pixels: `[B, H, W, channels]`, in the computation's dtype.

    Returns:
      `[B, grid, grid, channels]`; B is the larger number of rows where one is 1.
    """
    vision, name = config.vision_config, "vision_encoder"
    x = parameters.strided(pixels, f"{name}.patch_embed.projection")
    if vision.use_abs_pos:
        x = x + parameters.array(f"{name}.pos_embed")[:, 0].astype(x.dtype)
    for i in range(vision.num_hidden_layers):
        x = layer(parameters, vision, i, x)
    x = parameters.linear(x, f"{name}.neck.conv1")
    x = parameters.norm(x, f"{name}.neck.layer_norm1", _NECK_EPSILON)
    x = parameters.convolution(x, f"{name}.neck.conv2")
    return parameters.norm(x, f"{name}.neck.layer_norm2", _NECK_EPSILON)


def layer(
    parameters: Parameters, vision: VisionConfig, index: int, x: jax.Array
) -> jax.Array:
    """One layer, `[B, height, width, hidden]` to the same."""
    name, epsilon = f"vision_encoder.layers.{index}", vision.layer_norm_eps
    y = parameters.norm(x, f"{name}.layer_norm1", epsilon)
    side = window_of(vision, index)
    height, width = x.shape[1:3]
    y = _cut(y, side) if side else y[:, None]
    y = _attention(parameters, vision, f"{name}.attn", y)
    y = _join(y, height, width) if side else y[:, 0]
    x = x + y
    y = parameters.norm(x, f"{name}.layer_norm2", epsilon)
    y = activate(parameters.linear(y, f"{name}.mlp.lin1"), vision.hidden_act)
    return x + parameters.linear(y, f"{name}.mlp.lin2")


def _attention(
    parameters: Parameters, vision: VisionConfig, name: str, x: jax.Array
) -> jax.Array:
    """Mixes the tokens of each window, `[B, windows, h, w, hidden]` to the same."""
    heads, (h, w) = vision.num_attention_heads, x.shape[2:4]
    qkv = parameters.linear(x, f"{name}.qkv")
    qkv = qkv.reshape(*qkv.shape[:-1], 3, heads, -1)
    queries, keys, values = jnp.moveaxis(qkv, -3, 0)  # [B, windows, h, w, heads, d]
    scale = queries.shape[-1] ** -0.5
    tables = None
    if vision.use_rel_pos:
        tables = tuple(
            _distances(parameters.array(f"{name}.rel_pos_{axis}"), size)
            for axis, size in (("h", h), ("w", w))
        )

    def rows(queries: jax.Array, down: jax.Array | None) -> jax.Array:
        """Attention of some rows, `[B, windows, i, w, heads, d]`."""
        scores = jnp.einsum("bzijnd,bzklnd->bznijkl", queries * scale, keys)
        if tables is not None:
            across = tables[1].astype(queries.dtype)
            across = _positions("bzijnd,{}jld->bznijl", queries, across)
            below = _positions("bzijnd,{}ikd->bznijk", queries, down)
            scores = scores + below[..., None] + across[..., None, :]
        flat = scores.reshape(*scores.shape[:-2], h * w).astype(jnp.float32)
        shares = jax.nn.softmax(flat, axis=-1).reshape(scores.shape)
        return jnp.einsum("bznijkl,bzklnd->bzijnd", shares.astype(x.dtype), values)

    down = None if tables is None else tables[0].astype(queries.dtype)
    if h * w <= MOST_TOKENS:
        mixed = rows(queries, down)
    else:

        def row(own):
            down = None if own[1] is None else own[1][:, None]
            return rows(own[0][:, :, None], down)[:, :, 0]

        down = None if down is None else down.swapaxes(0, 1)
        mixed = jax.lax.map(row, (jnp.moveaxis(queries, 2, 0), down))
        mixed = jnp.moveaxis(mixed, 0, 2)
    return parameters.linear(mixed.reshape(*mixed.shape[:-2], -1), f"{name}.proj")


def _positions(equation: str, queries: jax.Array, table: jax.Array) -> jax.Array:
    """The product with a table `[1 or B, ...]`; a shared one has no row axis."""
    if table.shape[0] == 1:
        return jnp.einsum(equation.format(""), queries, table[0])
    queries = jnp.broadcast_to(queries, (table.shape[0], *queries.shape[1:]))
    return jnp.einsum(equation.format("b"), queries, table)


def _distances(table: jax.Array, size: int) -> jax.Array:
    """`[b, 2 size - 1, d]` to `[b, size, size, d]`, by query and key position."""
    place = jnp.arange(size)
    return table[:, place[:, None] - place[None, :] + size - 1]


def _cut(x: jax.Array, side: int) -> jax.Array:
    """Windows `[B, windows, side, side, hidden]`; those at the edge are padded."""
    rows, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, -height % side), (0, -width % side), (0, 0)))
    down, across = x.shape[1] // side, x.shape[2] // side
    x = x.reshape(rows, down, side, across, side, channels).swapaxes(2, 3)
    return x.reshape(rows, down * across, side, side, channels)


def _join(windows: jax.Array, height: int, width: int) -> jax.Array:
    """The inverse of `_cut`."""
    rows, _, side, _, channels = windows.shape
    down, across = -(-height // side), -(-width // side)
    x = windows.reshape(rows, down, across, side, side, channels).swapaxes(2, 3)
    return x.reshape(rows, down * side, across * side, channels)[:, :height, :width]
