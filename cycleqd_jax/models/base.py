"""The protocol `CausalLM`: language models of any family.

Everything outside `models` speaks to it only, and to that of segmentation models
(`segmentation.py`). A model's weights are a flat dict `{Hugging Face name: array}`,
matrices `[out, in]`. The program never holds arrays, so one program runs the base
model, any fine-tune and a population.

Several individuals share one pass in factored form. Per matrix and batch row b,

    y_b = x_b W^T + ((x_b V) * c_b) U^T        and        p_b = p + d_b

for norm scales and biases p, where `W`, `U`, `V` are shared and read once.

B denotes rows of a batch, L new tokens per row, S tokens a cache row holds, R the
summed ranks of all experts.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp

# The names that every family gives these two weights; a tied model has no HEAD.
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

Weights = Mapping[str, jax.Array]


def matrix_shape(shape: Sequence[int]) -> tuple[int, int] | None:
    """The matrix that a parameter is where singular directions are taken of it.

    Kernels are flattened: `[out, in, h, w]` to `[out, in * h * w]`; those of transposed
    convolutions are stored as `[in, out, h, w]` and give `[in, out * h * w]`. None for
    vectors, and for position tables `[1, h, w, channels]`.
    """
    if len(shape) == 4 and shape[0] > 1:
        return shape[0], math.prod(shape[1:])
    return (shape[0], shape[1]) if len(shape) == 2 else None


class WeightsConfig(Protocol):
    """The facts of a model that files, adapters and merging need; frozen and hashable.

    Attributes:
      model_type: the family, as in `config.json`.
    """

    model_type: str

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight's name and shape, in the model's order; matrices `[out, in]`."""
        ...

    def to_hf(self) -> dict[str, Any]:
        """The content of a `config.json`, without token ids and dtype."""
        ...


class ModelConfig(WeightsConfig, Protocol):
    """Sizes and constants of one causal language model: a frozen pydantic model.

    `vocab_size` and `tie_word_embeddings` are fields, which `model_copy` changes where
    experts have other rows; the others may be properties.

    Attributes:
      vocab_size: rows of the embedding.
      hidden_size: width of the residual stream.
      intermediate_size: width of the MLP.
      num_hidden_layers: decoder layers.
      num_attention_heads: query heads.
      num_key_value_heads: key and value heads.
      head_dim: width of one head.
      max_position_embeddings: longest context, in tokens.
      tie_word_embeddings: whether the output head is the embedding.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    tie_word_embeddings: bool

    def model_copy(self, *, update: Mapping[str, Any]) -> "ModelConfig":
        """The same with other fields; pydantic models have it."""
        ...


@flax.struct.dataclass
class LowRank:
    """The change of one matrix per batch row: `U diag(c_b) V^T`, or `U M_b V^T`.

    Attributes:
      u: `[out, R]`; `[out, Ru]` with cores M.
      v: `[in, R]`; `[in, Rv]` with cores.
      c: `[B, R]`, or cores `[B, Ru, Rv]`; the first axis is 1 if all rows share it.
    """

    u: jax.Array
    v: jax.Array
    c: jax.Array


@flax.struct.dataclass
class Deltas:
    """The changes of the shared weights for each batch row, by weight name.

    Attributes:
      matrices: low-rank additions; a matrix without an entry is unchanged.
      vectors: `[B, n]` additions to norm scales and biases; likewise.
    """

    matrices: dict[str, LowRank] = flax.struct.field(default_factory=dict)
    vectors: dict[str, jax.Array] = flax.struct.field(default_factory=dict)


class Cache(NamedTuple):
    """Keys and values per layer, `[rows, kv_heads, S, head_dim]` each."""

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]


class Held(NamedTuple):
    """New keys and values that are held back from the cache for some steps.

    A step then writes one column for all rows, and the cache itself is only read.

    Attributes:
      cache: of the new tokens, `[B, kv_heads, N, head_dim]` per layer.
      filled: int32 `[B]`, tokens of each row that are in the cache itself.
      step: int32 `[]`, the column of this step's token.
    """

    cache: Cache
    filled: jax.Array
    step: jax.Array


class CacheView(NamedTuple):
    """The part of a cache that a batch reads and writes.

    Attributes:
      cache: the whole cache.
      rows: int32 `[B]`, the cache row of each batch row; None if batch row b is cache
        row b. Nothing is written for a row number past the end.
      span: how many tokens of each row are read; None for all. Static.
      held: where the batch's one new token goes instead of the cache; `rows` is None
        then. Only for models with `holds_back`.
    """

    cache: Cache
    rows: jax.Array | None = None
    span: int | None = None
    held: Held | None = None


class Packed(NamedTuple):
    """Batch rows that hold several sequences each, one after another.

    Attributes:
      segments: int32 `[B, L]`, number of the sequence that each token belongs to.
      positions: int32 `[B, L]`, position of each token in its own sequence.
    """

    segments: jax.Array
    positions: jax.Array


class TokenBatch(NamedTuple):
    """Whole sequences, padded on the right.

    Attributes:
      tokens: int32 `[B, L]`.
      lengths: int32 `[B]`, tokens of each row without padding; 0 for an empty row.
    """

    tokens: jax.Array
    lengths: jax.Array


class CausalLM(Protocol):
    """A causal language model as pure functions of flat weights.

    Hashable, so it can be a static argument of `jax.jit`.

    Attributes:
      config: its sizes.
      dtype: of the computation, the cache and the hidden states.
      holds_back: whether the engine should pass `CacheView.held` when it decodes.
    """

    config: ModelConfig
    dtype: jnp.dtype
    holds_back: bool

    def empty_cache(self, rows: int, length: int) -> Cache:
        """A cache of zeros for `rows` sequences of up to `length` tokens.

        No array is in it twice, because the engine donates all of them.
        """
        ...

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
        """Appends L tokens to each row's sequence in the cache.

        Args:
          weights: the flat weights.
          tokens: int32 `[B, L]`.
          offsets: int32 `[B]`, tokens each sequence already has in the cache.
          view: the cache and the rows in use.
          deltas: additions per row, or None.
          last: int32 `[B]`, index of each row's last real token, whose logits are
            returned; default L - 1. Tokens after it are padding: their cache entries
            are overwritten by the sequence's next tokens before they are read.
          lengths: int32 `[B]`, length of each row's whole prompt, of which these
            tokens may be one chunk; default `offsets + last + 1`. Only position
            embeddings that depend on the sequence length use it.
          all_logits: return the logits of all L tokens, not only of `last`. Static.

        Returns:
          Logits, float32 `[B, vocab]` (with `all_logits` `[B, L, vocab]`), and the
          cache with the new entries (with `held` the cache that is held back).
        """
        ...

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
        """Final hidden states of whole sequences, without a cache.

        Args:
          weights: the flat weights.
          tokens: int32 `[B, L]`, padded on the right.
          deltas: additions per row, or None.
          lengths: int32 `[B]`, tokens of each row without padding; default L. Used as
            in `extend`, and ignored where rows are packed.
          packed: set if rows hold several sequences, which do not see each other.
          recompute: recompute each layer in the backward pass instead of storing its
            activations. Static.

        Returns:
          `[B, L, hidden]`, in `dtype`.
        """
        ...

    def logits(
        self, weights: Weights, hidden: jax.Array, deltas: Deltas | None = None
    ) -> jax.Array:
        """Logits, float32 `[B, L, vocab]`, of hidden states `[B, L, hidden]`."""
        ...

    def input_grams(
        self, weights: Weights, groups: Sequence[Sequence[TokenBatch]]
    ) -> Iterator[dict[str, list[jax.Array]]]:
        """Gram matrices of the inputs of linear layers, one decoder layer at a time.

        A layer's weights go to the device when it is its turn, so `weights` may lie on
        the host.

        Args:
          weights: the flat weights.
          groups: batches of equal shape; each group gets Gram matrices of its own.

        Yields:
          One dict per decoder layer in order, then one for a head that is not tied:
          the weight's name -> per group the sum of `x x^T` over its tokens, float32
          `[in, in]`. Embeddings have no entry.
        """
        ...
