"""A family's Flax module as pure functions of flat weights."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from cycleqd_jax.models import grams
from cycleqd_jax.models.attention import Kind
from cycleqd_jax.models.base import (
    Cache,
    CacheView,
    Deltas,
    ModelConfig,
    Packed,
    TokenBatch,
    Weights,
)
from cycleqd_jax.models.decoder import Decoder, abstract, bind, parameters


class DecoderProgram:
    """A `base.CausalLM`; a family's subclass names its module.

    Attributes:
      module: the family's module.
    """

    module: type[Decoder]

    def __init__(
        self,
        config: ModelConfig,
        dtype: jnp.dtype | str = "float32",
        *,
        attention: Kind = "xla",
    ):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        # A CPU writes a token of each row into a large array as fast as into a small
        # one; the kernels need all keys in one array.
        self.holds_back = attention == "dot_product"
        self._abstract = abstract(self.module, config, self.dtype, attention)
        self._names = parameters(self._abstract).keys()

    def _bind(self, weights: Weights) -> Decoder:
        missing = sorted(self._names - weights.keys())
        unknown = sorted(weights.keys() - self._names)
        if missing or unknown:
            raise ValueError(
                f"weights: expected the {len(self._names)} weights of this model, "
                f"but {missing[:3]} are missing and {unknown[:3]} are unknown; load "
                "them with load_model."
            )
        return bind(self._abstract, weights)

    def empty_cache(self, rows: int, length: int) -> Cache:
        """As `CausalLM.empty_cache`."""
        config = self.config
        shape = (rows, config.num_key_value_heads, length, config.head_dim)
        layers = range(config.num_hidden_layers)
        return Cache(
            tuple(jnp.zeros(shape, self.dtype) for _ in layers),
            tuple(jnp.zeros(shape, self.dtype) for _ in layers),
        )

    def hidden(
        self,
        weights: Weights,
        tokens: jax.Array,
        deltas: Deltas | None = None,
        *,
        lengths: jax.Array | None = None,
        packed: Packed | None = None,
        recompute: bool = False,
    ) -> jax.Array:
        """As `CausalLM.hidden`."""
        rows, length = tokens.shape
        positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        lengths = jnp.full(rows, length, jnp.int32) if lengths is None else lengths
        deltas = deltas or Deltas()
        hidden, _ = self._bind(weights).hidden(
            tokens, positions, lengths, deltas, packed=packed, recompute=recompute
        )
        return hidden

    def logits(
        self, weights: Weights, hidden: jax.Array, deltas: Deltas | None = None
    ) -> jax.Array:
        """As `CausalLM.logits`."""
        return self._bind(weights).logits(hidden, deltas or Deltas())

    def extend(
        self,
        weights: Weights,
        tokens: jax.Array,
        offsets: jax.Array,
        view: CacheView,
        deltas: Deltas | None = None,
        *,
        last: jax.Array | None = None,
        lengths: jax.Array | None = None,
        all_logits: bool = False,
    ) -> tuple[jax.Array, Cache]:
        """As `CausalLM.extend`."""
        deltas = deltas or Deltas()
        positions = offsets[:, None] + jnp.arange(tokens.shape[1])
        model = self._bind(weights)
        last = jnp.full_like(offsets, tokens.shape[1] - 1) if last is None else last
        lengths = offsets + last + 1 if lengths is None else lengths
        hidden, cache = model.hidden(tokens, positions, lengths, deltas, view)
        if all_logits:
            return model.logits(hidden, deltas), cache
        hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)
        return model.logits(hidden, deltas)[:, 0], cache

    def input_grams(
        self, weights: Weights, groups: Sequence[Sequence[TokenBatch]]
    ) -> Iterator[dict[str, list[jax.Array]]]:
        """As `CausalLM.input_grams`."""
        return grams.input_grams(self.module, self.config, self.dtype, weights, groups)
