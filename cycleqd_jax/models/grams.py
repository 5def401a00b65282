"""Gram matrices of the inputs of a decoder's linear layers, one layer at a time."""

import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from cycleqd_jax.models.base import (
    EMBEDDING,
    HEAD,
    Deltas,
    ModelConfig,
    TokenBatch,
    Weights,
)
from cycleqd_jax.models.cached_attention import LayerView
from cycleqd_jax.models.decoder import Decoder, abstract, bind
from cycleqd_jax.models.layers import Linear


def input_grams(
    make: type[Decoder],
    config: ModelConfig,
    dtype: jnp.dtype,
    weights: Weights,
    groups: Sequence[Sequence[TokenBatch]],
) -> Iterator[dict[str, list[jax.Array]]]:
    """As `CausalLM.input_grams`; attention is computed without kernels.

    Args:
      make: the family's module.
      config: of the model.
      dtype: of the computation.
      weights: as for `CausalLM.input_grams`.
      groups: likewise.
    """
    model = abstract(make, config, dtype)
    paths = {id(part): path for path, part in nnx.iter_modules(model)}
    prefixes = [".".join(map(str, paths[id(part)])) + "." for part in model.layers]
    outer = [name for name in weights if not name.startswith(tuple(prefixes))]

    def with_outer(unused: set[str]) -> Decoder:
        """The model with those weights on the device that no layer has."""
        used = [name for name in outer if name not in unused]
        return bind(model, {name: jnp.asarray(weights[name], dtype) for name in used})

    start = with_outer({HEAD})
    states = [
        [start.embed(b.tokens, _places(b.tokens), Deltas()) for b in group]
        for group in groups
    ]
    del start  # the embedding need not stay on the device
    kinds: list[nnx.GraphDef] = []
    for prefix, part in zip(prefixes, model.layers, strict=True):
        layer = {
            name.removeprefix(prefix): jnp.asarray(weights[name], dtype)
            for name in weights  # not its items, which may be read from disk
            if name.startswith(prefix)
        }
        kinds.append(_kind(part, prefix))
        found: dict[str, list[jax.Array]] = {}
        for group, hidden in zip(groups, states, strict=True):
            total = None
            for b, batch in enumerate(group):
                hidden[b], grams = _layer_grams(
                    layer,
                    hidden[b],
                    batch.lengths,
                    make=make,
                    config=config,
                    dtype=dtype,
                    number=kinds.index(kinds[-1]),
                )
                total = grams if total is None else _sum(total, grams)
            for name, gram in total.items():
                found.setdefault(f"{prefix}{name}.weight", []).append(gram)
        yield found
    if not config.tie_word_embeddings:
        end = with_outer({EMBEDDING, HEAD})
        heads = []
        for group, hidden in zip(groups, states, strict=True):
            parts = zip(hidden, group, strict=True)
            heads.append(
                functools.reduce(
                    jnp.add,
                    (_gram(end.norm(x, Deltas()), b.lengths) for x, b in parts),
                )
            )
        yield {HEAD: heads}


def _places(x: jax.Array) -> jax.Array:
    """Int32 `[B, L]`, the position of each token of `[B, L, ...]`."""
    return jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])


def _kind(layer: nnx.Module, prefix: str) -> nnx.GraphDef:
    """The graph of a layer without names, equal for layers of the same computation."""
    for _, part in nnx.iter_modules(layer):
        if hasattr(part, "name"):
            part.name = part.name.removeprefix(prefix)
    return nnx.graphdef(layer)


@functools.partial(
    jax.jit, static_argnames=("make", "config", "dtype", "number"), donate_argnums=1
)
def _layer_grams(
    weights: Mapping[str, jax.Array],
    x: jax.Array,
    lengths: jax.Array,
    *,
    make: type[Decoder],
    config: ModelConfig,
    dtype: jnp.dtype,
    number: int,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One decoder layer on `[B, L, hidden]`: its output, and its Gram matrices.

    The same program serves all layers of a kind, whose first one has this number:
    `weights` has names without the layer's.
    """
    model = abstract(make, config, dtype)
    layer = bind(model.layers[number], weights)
    for _, module in nnx.iter_modules(layer):
        if isinstance(module, Linear):
            module.tapped = True
    places = _places(x)
    rotation = model.rotation(places, lengths)
    (y, _), taps = nnx.capture(layer, nnx.Intermediate)(
        x, Deltas(), rotation, LayerView(places)
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
