"""The tokens behind the rows of embeddings, of a base model and its experts.

A row is shared by two models if its id is the same token in both, or no token in
either. Padding is no token: rows beyond the tokeniser, and a padding token that no
prompt can have. An id must not be one token here and another one there.
"""

import copy
import dataclasses
import functools
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats import hf_folder
from cycleqd_jax.models.tokenizer import ChatTokenizer, padding_only

# "base": results have the base's tokens. "union": those that experts added too.
Vocabulary = Literal["base", "union"]


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens of one tokeniser.

    Attributes:
      hf: the `transformers.PreTrainedTokenizerFast`.
      foreign: ids of tokens that are not the base's own, but were added from experts.
    """

    hf: Any
    foreign: frozenset[int] = frozenset()

    @functools.cached_property
    def texts(self) -> dict[int, str]:
        """Id -> text, also of padding; without `foreign`."""
        found = {i: token for token, i in self.hf.get_vocab().items()}
        return {i: token for i, token in found.items() if i not in self.foreign}

    @functools.cached_property
    def used(self) -> dict[int, str]:
        """Id -> text, of the tokens that a prompt can have."""
        padding = padding_only(self.hf)
        return {i: token for i, token in self.texts.items() if token != padding}


def read_tokens(folder: pathlib.Path) -> Tokens | None:
    """The tokens of an expert's folder; None if it brings no tokeniser.

    Raises:
      BadInputError: its tokeniser is damaged.
    """
    if not (folder / "tokenizer.json").exists():
        return None
    return Tokens(hf_folder.read_fast_tokenizer(folder))


def check_tokens(
    folder: pathlib.Path, own: Tokens | None, base: Tokens, rows: int, base_rows: int
) -> None:
    """Refuses an expert for whom an id is another token than for its base.

    Args:
      folder: the expert's, for messages.
      own: its tokens; None if it brings no tokeniser.
      base: the base model's.
      rows: of the expert's embedding.
      base_rows: of the embedding that it was made from.

    Raises:
      BadInputError: names an id and both texts, or a token and both ids; or the expert
        has a token without a row, or other rows than the base and no tokeniser.
    """
    if own is None:
        if rows != base_rows:
            raise BadInputError(
                f"expert {folder}: its embedding has {rows} rows, the base model's "
                f"{base_rows}, and it has no tokenizer.json that says which tokens "
                "they are; save its tokeniser there"
            )
        return
    for i in sorted(own.used.keys() & base.used.keys()):
        if own.used[i] != base.used[i]:
            raise BadInputError(
                f"expert {folder}: token {i} of its tokeniser is {own.used[i]!r}, but "
                f"the base model's is {base.used[i]!r}; an expert must keep the "
                "meaning of the base's tokens"
            )
    ids = {token: i for i, token in base.used.items()}
    for i, token in sorted(own.used.items()):
        if ids.get(token, i) != i:
            raise BadInputError(
                f"expert {folder}: its tokeniser has {token!r} as {i}, the base "
                f"model's as {ids[token]}; an expert must keep the base's tokens where "
                "they are"
            )
        if i >= rows:
            raise BadInputError(
                f"expert {folder}: its tokeniser has {token!r} as {i}, but its "
                f"embedding has {rows} rows; use the tokeniser that it was trained "
                "with"
            )


def shared_rows(
    own: Tokens | None, base: Tokens | None, rows: int, base_rows: int
) -> np.ndarray:
    """The rows of a base's matrix that an expert has too, bool `[base_rows]`.

    Args:
      own: the expert's tokens; None where they are those of the base.
      base: the base model's; None where they are not known.
      rows: of the expert's matrix.
      base_rows: of the base's.
    """
    shared = np.arange(base_rows) < rows
    if base is not None:
        shared[[i for i in base.foreign if i < base_rows]] = False
    if own is not None and base is not None:
        one = set(own.texts.items() ^ base.texts.items())
        odd = {i for i, _ in one if i in own.used or i in base.used}
        shared[[i for i in odd if i < base_rows]] = False
    return shared


class NewToken(NamedTuple):
    """A token that experts added to the base's.

    Attributes:
      text: as it is written.
      settings: a `tokenizers.AddedToken`.
      ids: number of the expert -> its own id of the token.
    """

    text: str
    settings: Any
    ids: dict[int, int]


def new_tokens(
    base: Tokens, experts: Sequence[tuple[pathlib.Path, Tokens | None]]
) -> list[NewToken]:
    """The tokens that experts added, expert after expert, each in order of its ids.

    Args:
      base: the base model's.
      experts: folder and tokens of each; None without a tokeniser.

    Raises:
      BadInputError: a token is a new word of the expert's tokeniser itself and not an
        added one.
    """
    known, found = set(base.texts.values()), {}
    for number, (folder, own) in enumerate(experts):
        added = own.hf.added_tokens_decoder if own else {}
        for i, text in sorted(own.used.items() if own else ()):
            if text in known:
                continue
            if i not in added:
                raise BadInputError(
                    f"expert {folder}: its tokeniser has the word {text!r} ({i}), "
                    "which is none of its added tokens, so it cannot be added to the "
                    "base's; set vocabulary: base"
                )
            token = found.setdefault(text, NewToken(text, added[i], {}))
            token.ids[number] = i
    return list(found.values())


def extended(
    tokenizer: ChatTokenizer, tokens: Sequence[NewToken], ends: Collection[str]
) -> tuple[ChatTokenizer, Mapping[str, int]]:
    """A tokeniser with more tokens, and the id of each of them by its text.

    Args:
      tokenizer: the base model's; it stays as it is.
      tokens: that it lacks.
      ends: those of them that end a reply.
    """
    hf = copy.deepcopy(tokenizer.hf)
    for token in tokens:
        hf.add_tokens([token.settings], special_tokens=token.settings.special)
    vocabulary = hf.get_vocab()
    ids = {token.text: vocabulary[token.text] for token in tokens}
    stops = [*tokenizer.stop_ids, *(ids[text] for text in sorted(ends))]
    return ChatTokenizer(hf, stops, tokenizer.date), ids
