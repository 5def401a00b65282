"""The mask decoder: prompts and image attend to each other, then make masks.

Source: SAM (arXiv 2304.02643), appendix A; checked against `transformers`.
"""

import jax
import jax.numpy as jnp

from cycleqd_jax.models.sam.layers import Parameters, activate
from cycleqd_jax.models.sam.parts import MaskDecoderConfig

# These norms do not follow the config, in transformers either.
_FINAL_EPSILON, _UPSCALE_EPSILON = 1e-5, 1e-6


def decode_masks(
    parameters: Parameters,
    settings: MaskDecoderConfig,
    image: jax.Array,
    places: jax.Array,
    prompts: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Predicts all masks of every prompt.

    Args:
      parameters: the weights and the additions of each row.
      settings: the decoder's.
      image: `[B, grid, grid, channels]`, with the dense prompt.
      places: `[1 or B, grid, grid, channels]`, positions of the image's tokens.
      prompts: `[1 or B, P, n, channels]`, or None.

    Returns:
      Logits `[B, P, masks, 4 grid, 4 grid]` and predicted quality `[B, P, masks]`; the
      first mask is the single one.
    """
    name, dtype = "mask_decoder", image.dtype
    iou_token, mask_tokens = (
        parameters.array(f"{name}.{table}.weight")[:, None].astype(dtype)
        for table in ("iou_token", "mask_tokens")
    )
    parts = [iou_token, mask_tokens]
    parts += [] if prompts is None else [prompts.astype(dtype)]
    rows = max(part.shape[0] for part in [*parts, image, places])
    count = parts[-1].shape[1]  # P
    parts = [jnp.broadcast_to(part, (rows, count, *part.shape[2:])) for part in parts]
    tokens = jnp.concatenate(parts, axis=2)
    grid, channels = image.shape[1], image.shape[-1]
    keys = image.reshape(image.shape[0], 1, -1, channels)
    keys = jnp.broadcast_to(keys, (rows, *keys.shape[1:]))
    places = places.reshape(places.shape[0], 1, -1, channels).astype(dtype)
    tokens, keys = _two_ways(parameters, settings, tokens, keys, places)

    # Rows of the upscaling are rows of the batch: prompts go below the height.
    x = jnp.broadcast_to(keys, (rows, count, *keys.shape[2:]))
    x = x.reshape(rows, count * grid, grid, channels)
    x = parameters.upscale(x, f"{name}.upscale_conv1")
    x = parameters.norm(x, f"{name}.upscale_layer_norm", _UPSCALE_EPSILON)
    x = parameters.upscale(activate(x, "gelu"), f"{name}.upscale_conv2")
    x = activate(x, "gelu").reshape(rows, count, 4 * grid, 4 * grid, -1)

    masks = settings.num_multimask_outputs + 1
    weights = [
        _mlp(
            parameters,
            f"{name}.output_hypernetworks_mlps.{i}",
            tokens[:, :, 1 + i],
            depth=3,
        )
        for i in range(masks)
    ]
    logits = jnp.einsum("bpmc,bphwc->bpmhw", jnp.stack(weights, axis=2), x)
    head = f"{name}.iou_prediction_head"
    quality = _mlp(parameters, head, tokens[:, :, 0], depth=settings.iou_head_depth)
    return logits, quality


def _two_ways(
    parameters: Parameters,
    settings: MaskDecoderConfig,
    tokens: jax.Array,
    keys: jax.Array,
    places: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Tokens `[B, P, n, C]` and image `[B, 1 or P, grid^2, C]` after all layers."""
    x, epsilon, name = tokens, settings.layer_norm_eps, "mask_decoder.transformer"

    def attend(q, k, v, which):
        return _attention(parameters, settings.num_attention_heads, q, k, v, which)

    for i in range(settings.num_hidden_layers):
        own = f"{name}.layers.{i}"

        def norm(x, index, own=own):
            return parameters.norm(x, f"{own}.layer_norm{index}", epsilon)

        if i == 0:  # without positions, and without the residual
            x = norm(attend(x, x, x, f"{own}.self_attn"), 1)
        else:
            q = x + tokens
            x = norm(x + attend(q, q, x, f"{own}.self_attn"), 1)
        way = f"{own}.cross_attn_token_to_image"
        x = norm(x + attend(x + tokens, keys + places, keys, way), 2)
        inner = activate(parameters.linear(x, f"{own}.mlp.lin1"), settings.hidden_act)
        x = norm(x + parameters.linear(inner, f"{own}.mlp.lin2"), 3)
        way = f"{own}.cross_attn_image_to_token"
        keys = norm(keys + attend(keys + places, x + tokens, x, way), 4)
    way = f"{name}.final_attn_token_to_image"
    x = x + attend(x + tokens, keys + places, keys, way)
    x = parameters.norm(x, f"{name}.layer_norm_final_attn", _FINAL_EPSILON)
    return x, keys


def _attention(
    parameters: Parameters,
    heads: int,
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    name: str,
) -> jax.Array:
    """Attention of `[B, 1 or P, n, C]` to `[B, 1 or P, m, C]`."""

    def split(x: jax.Array, which: str) -> jax.Array:
        x = parameters.linear(x, f"{name}.{which}_proj")
        return x.reshape(*x.shape[:-1], heads, -1).swapaxes(2, 3)

    q, k, v = split(queries, "q"), split(keys, "k"), split(values, "v")
    scores = (q @ k.swapaxes(-1, -2)) * q.shape[-1] ** -0.5
    shares = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(q.dtype)
    mixed = (shares @ v).swapaxes(2, 3)
    mixed = mixed.reshape(*mixed.shape[:-2], -1)
    return parameters.linear(mixed, f"{name}.out_proj")


def _mlp(parameters: Parameters, name: str, x: jax.Array, *, depth: int) -> jax.Array:
    x = jax.nn.relu(parameters.linear(x, f"{name}.proj_in"))
    for i in range(depth - 2):
        x = jax.nn.relu(parameters.linear(x, f"{name}.layers.{i}"))
    return parameters.linear(x, f"{name}.proj_out")
