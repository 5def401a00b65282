"""A decoder as a Flax module: what is common to the families of language models.

Module paths joined with "." are Hugging Face's parameter names.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from cycleqd_jax.models.attention import Kind
from cycleqd_jax.models.base import Cache, CacheView, Deltas, ModelConfig, Packed
from cycleqd_jax.models.cached_attention import LayerView
from cycleqd_jax.models.layers import Embedding, Linear


class Trunk(nnx.Module):
    """Embedding and layers; a family adds its other parameters below `model`."""

    def __init__(
        self, config: ModelConfig, layers: Iterable[nnx.Module], dtype: jnp.dtype
    ):
        self.embed_tokens = Embedding(config, "model.embed_tokens", dtype)
        self.layers = nnx.List(layers)


class Decoder(nnx.Module):
    """Embedding, layers, final norm and head, with what each batch row adds to them.

    A family's module is made as `Module(config, dtype, kind)`, gives its layers to this
    constructor, adds its final norm, and has `norm`; it overrides the other methods
    where it computes something else. A layer is called as

        x, (keys, values) = layer(x, deltas, rotation, seen)

    with `x` `[B, L, hidden]` and a `LayerView`, and gives what `attend_cached` does.
    """

    def __init__(
        self, config: ModelConfig, layers: Iterable[nnx.Module], dtype: jnp.dtype
    ):
        self.model = Trunk(config, layers, dtype)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config, "lm_head", dtype)

    @property
    def layers(self) -> nnx.List:
        """The layers in order."""
        return self.model.layers

    def embed(self, tokens: jax.Array, places: jax.Array, deltas: Deltas) -> jax.Array:
        """The input of the first layer.

        Args:
          tokens: int32 `[B, L]`.
          places: int32 `[B, L]`, position of each token in its sequence.
          deltas: additions per row.

        Returns:
          `[B, L, hidden]`.
        """
        return self.model.embed_tokens(tokens, deltas)

    def rotation(
        self, places: jax.Array, lengths: jax.Array
    ) -> tuple[jax.Array, jax.Array] | None:
        """Cosines and sines for the layers, or what else they need of positions.

        Args:
          places: int32 `[B, L]`, position of each token in its sequence.
          lengths: int32 `[B]` or `[B, L]`, length of each row's or token's sequence.
        """
        return None

    def norm(self, x: jax.Array, deltas: Deltas) -> jax.Array:
        """The final norm, `[B, L, hidden]` to the same."""
        raise NotImplementedError

    def logits(self, hidden: jax.Array, deltas: Deltas) -> jax.Array:
        """Float32 `[B, L, vocab]`."""
        if hasattr(self, "lm_head"):
            return self.lm_head(hidden, deltas).astype(jnp.float32)
        return self.model.embed_tokens.logits(hidden, deltas).astype(jnp.float32)

    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        lengths: jax.Array,
        deltas: Deltas,
        view: CacheView | None = None,
        packed: Packed | None = None,
        recompute: bool = False,
    ) -> tuple[jax.Array, Cache]:
        """Final hidden states `[B, L, hidden]`, and the cache after these tokens.

        `positions`, int32 `[B, L]`, are the tokens' indices in their row. A token
        attends to positions up to its own. The other arguments are as in `CausalLM`.
        """
        places, seen = positions, LayerView(positions)
        if packed is not None:
            places, seen = packed.positions, LayerView(positions, packed.segments)
            lengths = _segment_lengths(packed)
        rotation = self.rotation(places, lengths)
        x = self.embed(tokens, places, deltas)
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            run = jax.checkpoint(layer) if recompute else layer
            x, (k, v) = run(x, deltas, rotation, seen.of_layer(i, view))
            keys.append(k)
            values.append(v)
        return self.norm(x, deltas), Cache(tuple(keys), tuple(values))


def abstract(
    make: type[Decoder], config: ModelConfig, dtype: jnp.dtype, kind: Kind = "xla"
) -> Decoder:
    """A family's module whose parameters have shapes and no arrays."""
    return nnx.eval_shape(lambda: make(config, dtype, kind))


def parameters(module: nnx.Module) -> dict[str, tuple[tuple, nnx.Variable]]:
    """A module's parameters: each name, path and variable."""
    flat = nnx.to_flat_state(nnx.state(module))
    return {".".join(map(str, path)): (path, variable) for path, variable in flat}


def bind(module: nnx.Module, weights: Mapping[str, jax.Array]) -> nnx.Module:
    """A copy of a module with weights by the names of its parameters.

    Parameters without a weight stay as they are, and weights without one are ignored.
    """
    bound = {
        path: variable.replace(weights[name]) if name in weights else variable
        for name, (path, variable) in parameters(module).items()
    }
    return nnx.merge(nnx.graphdef(module), nnx.from_flat_state(bound))


def _segment_lengths(packed: Packed) -> jax.Array:
    """Tokens of the sequence that each token belongs to, int32 `[B, L]`."""
    same = packed.segments[:, :, None] == packed.segments[:, None, :]
    return jnp.max(jnp.where(same, packed.positions[:, None, :], 0), axis=-1) + 1
