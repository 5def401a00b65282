"""Gram matrices of the inputs of a Llama's linear layers, one layer at a time."""

import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from cycleqd_jax.models.base import EMBEDDING, HEAD, Deltas, TokenBatch, Weights
from cycleqd_jax.models.llama import rope
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.llama.layers import Layer, Linear, RMSNorm

_NORM = "model.norm.weight"


def input_grams(
    config: LlamaConfig,
    dtype: jnp.dtype,
    weights: Weights,
    groups: Sequence[Sequence[TokenBatch]],
) -> Iterator[dict[str, list[jax.Array]]]:
    """As `CausalLM.input_grams`; attention is computed without kernels."""
    states = [
        [jnp.asarray(weights[EMBEDDING], dtype)[batch.tokens] for batch in group]
        for group in groups
    ]
    for i in range(config.num_hidden_layers):
        prefix = f"model.layers.{i}."
        layer = {
            name.removeprefix(prefix): jnp.asarray(weights[name], dtype)
            for name in weights  # not its items, which may be read from disk
            if name.startswith(prefix)
        }
        found: dict[str, list[jax.Array]] = {}
        for group, hidden in zip(groups, states, strict=True):
            total = None
            for b, batch in enumerate(group):
                hidden[b], grams = _layer_grams(
                    layer,
                    hidden[b],
                    batch.lengths,
                    config=config,
                    dtype=dtype,
                    window=config.window(i),
                )
                total = grams if total is None else _sum(total, grams)
            for name, gram in total.items():
                found.setdefault(f"{prefix}{name}.weight", []).append(gram)
        yield found
    if not config.tie_word_embeddings:
        norm = RMSNorm(config, "model.norm", dtype)
        norm.weight[...] = jnp.asarray(weights[_NORM], dtype)
        heads = []
        for group, hidden in zip(groups, states, strict=True):
            parts = zip(hidden, group, strict=True)
            heads.append(
                functools.reduce(
                    jnp.add, (_gram(norm(x, Deltas()), b.lengths) for x, b in parts)
                )
            )
        yield {HEAD: heads}


@functools.partial(
    jax.jit, static_argnames=("config", "dtype", "window"), donate_argnums=1
)
def _layer_grams(
    weights: Mapping[str, jax.Array],
    x: jax.Array,
    lengths: jax.Array,
    *,
    config: LlamaConfig,
    dtype: jnp.dtype,
    window: int | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One decoder layer on `[B, L, hidden]`: its output, and its Gram matrices.

    The same program serves all layers with one window: `weights` has names without the
    layer's number.
    """
    layer = Layer(config, "model.layers.0", dtype, "xla", window)
    state = nnx.state(layer, nnx.Param)
    nnx.update(
        layer,
        nnx.from_flat_state(
            {
                path: slot.replace(weights[".".join(map(str, path))])
                for path, slot in nnx.to_flat_state(state)
            }
        ),
    )
    for _, module in nnx.iter_modules(layer):
        if isinstance(module, Linear):
            module.tapped = True
    positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
    rotation = rope.make_rotary(config).rotation(positions, lengths)
    (y, _), taps = nnx.capture(layer, nnx.Intermediate)(
        x, Deltas(), positions, rotation, None, None, None
    )
    grams: dict[int, jax.Array] = {}  # linear layers with one input share a matrix
    found = {}
    for (*path, _), tap in nnx.to_flat_state(taps):
        (taken,) = tap.get_value()
        if id(taken) not in grams:
            grams[id(taken)] = _gram(taken, lengths)
        found[".".join(map(str, path))] = grams[id(taken)]
    return y, found


def _gram(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """`[B, L, in]` to the float32 sum of `x x^T` over real tokens, `[in, in]`."""
    real = jnp.arange(x.shape[1]) < lengths[:, None]
    x = jnp.where(real[..., None], x, 0).reshape(-1, x.shape[-1])
    return jnp.einsum(
        "ti,tj->ij", x, x, precision="highest", preferred_element_type=jnp.float32
    )


@functools.partial(jax.jit, donate_argnums=0)
def _sum(a: dict[str, jax.Array], b: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return jax.tree.map(jnp.add, a, b)
