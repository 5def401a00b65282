"""The rows, tokens and head that a base model and its experts have in common.

All models of a run have the rows and the head that are decided here.

- The head is tied if base and all experts tie it. Else the base's head is its own, or a
  copy of its embedding.
- With the vocabulary "union" the tokens that experts added get the ids after the base's
  tokens. Their rows, of embedding and head, are those of the expert that has the token,
  or the mean of theirs, in every model alike. Ids without a token between the base's
  rows and these have rows of zeros; padding of experts is dropped.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import EMBEDDING, HEAD, ModelConfig
from cycleqd_jax.models.families import with_vocabulary
from cycleqd_jax.models.formats.mixed_rows import MixedRows, Rows
from cycleqd_jax.models.formats.safetensors import StoredWeights
from cycleqd_jax.models.own_experts import OwnExpert
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.models.vocabulary import (
    NewToken,
    Tokens,
    Vocabulary,
    check_tokens,
    extended,
    new_tokens,
)


class Joined(NamedTuple):
    """Attributes: config, tokeniser and added tokens, with their ids by text."""

    config: ModelConfig
    tokenizer: ChatTokenizer | None
    tokens: Sequence[NewToken] = ()
    ids: Mapping[str, int] = {}


def join(
    config: ModelConfig,
    tokenizer: ChatTokenizer | None,
    experts: Sequence[OwnExpert],
    vocabulary: Vocabulary,
) -> Joined:
    """Decides what base and experts have in common.

    Args:
      config: the base's own.
      tokenizer: the base's own; None if it is not known, and no tokens are added then.
      experts: in order.
      vocabulary: "base" or "union".

    Raises:
      BadInputError: tokens of an expert contradict the base's, or cannot be added; or
        a weight beside embedding and head would need other rows.
    """
    for own in experts:
        _check_tables(config, own.num_rows, f"expert {own.folder}")
    tied = config.tie_word_embeddings and not any(own.unties for own in experts)
    if vocabulary == "base" or tokenizer is None:
        return Joined(with_vocabulary(config, config.vocab_size, tied), tokenizer)
    base = Tokens(tokenizer.hf)
    for own in experts:
        check_tokens(own.folder, own.tokens, base, own.num_rows, config.vocab_size)
    tokens = new_tokens(base, [(own.folder, own.tokens) for own in experts])
    if not tokens:
        return Joined(with_vocabulary(config, config.vocab_size, tied), tokenizer)
    ends = {own.tokens.hf.eos_token for own in experts if own.tokens}
    ends &= {token.text for token in tokens}
    tokenizer, ids = extended(tokenizer, tokens, ends)
    rows = max(config.vocab_size, 1 + max(ids.values()))
    _check_tables(config, rows, "vocabulary: union")
    return Joined(with_vocabulary(config, rows, tied), tokenizer, tokens, ids)


def _check_tables(config: ModelConfig, rows: int, source: str) -> None:
    """Refuses other rows where more than embedding and head has one for each token."""
    other = with_vocabulary(config, rows, config.tie_word_embeddings).weight_shapes()
    for name, shape in config.weight_shapes().items():
        if name not in (EMBEDDING, HEAD) and other[name] != shape:
            raise BadInputError(
                f"{source}: has {rows} rows in place of the base's "
                f"{config.vocab_size}, but only embedding and head are fitted to other "
                f"rows, and {name} of a {config.model_type} model has a value for each "
                "as well; give experts with the base's rows and tokens"
            )


def join_weights(
    joined: Joined,
    own: ModelConfig,
    weights: Mapping[str, np.ndarray],
    experts: Sequence[OwnExpert],
) -> Mapping[str, np.ndarray]:
    """The base's weights with the rows and the head of `joined`.

    Args:
      joined: from `join`.
      own: the base's own config.
      weights: of `own`; stored ones stay in their files.
      experts: as for `join`.

    Raises:
      BadInputError: an expert lacks a row of a token that its tokeniser has.
    """
    config, new = joined.config, sorted(joined.ids.values())
    if config == own and not new:
        return weights
    kept = np.arange(config.vocab_size) < own.vocab_size
    kept[new] = False
    arrays, views = {}, {}
    for name in {EMBEDDING, HEAD} & config.weight_shapes().keys():
        of_base = name if name in weights else EMBEDDING
        added = {
            joined.ids[token.text]: np.mean(
                [experts[n].row(name, i, weights) for n, i in token.ids.items()], axis=0
            )
            for token in joined.tokens
        }
        if isinstance(weights, StoredWeights):
            rest = _rows(added, config.hidden_size, weights.outline(of_base)[1])
            views[name] = MixedRows(weights.file(of_base), of_base, kept, rest)
            continue
        whole = weights[of_base]
        arrays[name] = np.zeros((config.vocab_size, whole.shape[1]), whole.dtype)
        arrays[name][kept] = whole[kept[: len(whole)]]
        for i, row in added.items():
            arrays[name][i] = row.astype(whole.dtype)
    if isinstance(weights, StoredWeights):
        return weights.reading(views).only(config.weight_shapes())
    return {**weights, **arrays}


def _rows(added: Mapping[int, np.ndarray], width: int, dtype: str) -> Rows:
    """Added rows in the dtype of the run, and zeros between them."""

    def read(first: int, last: int) -> np.ndarray:
        rows = np.zeros((last - first, width), np.float32)
        for i, row in added.items():
            if first <= i < last:
                rows[i - first] = row
        return rows

    identity = files.hash_arrays({str(i): row for i, row in added.items()}, [])
    return Rows(read, "float32" if added else dtype, identity)
