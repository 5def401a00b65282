"""Experts as their folders have them, and how they are fitted to their base model.

An expert may have another vocabulary than its base, and may tie its head to the
embedding where the base does not, or the reverse. `fitted` gives it the base's rows and
head, so that everything after it sees matrices of one shape:

    row i of the fitted matrix = the expert's row i    where both know the token i
                                 the base's row i      elsewhere

A tied expert of an untied base has its embedding as head. An untied expert needs an
untied base; `loading.load_model` unties it.
"""

import abc
import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import EMBEDDING, HEAD, ModelConfig
from cycleqd_jax.models.experts import Expert, FullExpert, LoraExpert
from cycleqd_jax.models.formats import hf_folder, peft, safetensors
from cycleqd_jax.models.formats.mixed_rows import MixedRows, Rows, rows_of
from cycleqd_jax.models.same_base import check_named_base, check_same_function
from cycleqd_jax.models.vocabulary import Tokens, check_tokens, read_tokens, shared_rows

Weights = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Base:
    """The base model that experts are fitted to.

    Attributes:
      config: with the rows and the head that all models of a run have.
      own: its config as its folder has it.
      weights: those of `config`; None where only names and shapes matter.
      tokens: its own; None where they do not matter.
      source: where it came from.
    """

    config: ModelConfig
    own: ModelConfig
    weights: Weights | None = None
    tokens: Tokens | None = None
    source: str = ""


@dataclasses.dataclass(frozen=True)
class OwnExpert(abc.ABC):
    """An expert with its own rows and head.

    Attributes:
      folder: that it was read from.
      base: config of the base model, as its folder has it.
    """

    folder: pathlib.Path
    base: ModelConfig

    @functools.cached_property
    def tokens(self) -> Tokens | None:
        """Its tokens; None if it brings no tokeniser."""
        return read_tokens(self.folder)

    @property
    @abc.abstractmethod
    def unties(self) -> bool:
        """True if its head is no copy of its embedding, though the base's is."""

    @property
    @abc.abstractmethod
    def num_rows(self) -> int:
        """Rows of its embedding."""

    @abc.abstractmethod
    def row(self, name: str, i: int, weights: Weights) -> np.ndarray:
        """Row i of its embedding or head, float64 `[hidden]`.

        Args:
          name: `EMBEDDING` or `HEAD`; of a tied expert both are the embedding.
          i: token id.
          weights: the base's, as its folder has them.
        """

    def fitted(self, base: Base) -> Expert:
        """The expert with the rows and the head of a base model.

        Raises:
          BadInputError: it is no expert of this base; says what differs.
        """
        if base.tokens is not None:
            check_tokens(
                self.folder,
                self.tokens,
                base.tokens,
                self.num_rows,
                self.base.vocab_size,
            )
        if self.unties and base.config.tie_word_embeddings:
            raise BadInputError(
                f"expert {self.folder}: changes the embedding and the head apart, but "
                "the base model ties them, so no model with tied embeddings is this "
                "one; name it among the experts of a run, which unties the base, or "
                "train with tied embeddings (PEFT's ensure_weight_tying)"
            )
        return self._fitted(base)

    @abc.abstractmethod
    def _fitted(self, base: Base) -> Expert:
        """As `fitted`, when the tokens agree."""

    def _shared(self, base: Base, rows: int) -> np.ndarray:
        return shared_rows(self.tokens, base.tokens, rows, base.config.vocab_size)


@dataclasses.dataclass(frozen=True)
class OwnFull(OwnExpert):
    """A whole model; attributes of `OwnExpert`, and its config and stored weights."""

    config: ModelConfig
    weights: safetensors.StoredWeights

    @property
    def unties(self) -> bool:
        """As `OwnExpert.unties`."""
        return self.base.tie_word_embeddings and not self.config.tie_word_embeddings

    @property
    def num_rows(self) -> int:
        """As `OwnExpert.num_rows`."""
        return self.config.vocab_size

    def row(self, name: str, i: int, weights: Weights) -> np.ndarray:
        """As `OwnExpert.row`."""
        rows = rows_of(self.weights, name if name in self.weights else EMBEDDING)
        return rows.read(i, i + 1)[0].astype(np.float64)

    def _fitted(self, base: Base) -> FullExpert:
        files, shared = {}, self._shared(base, self.num_rows)
        for name in {EMBEDDING, HEAD} & base.config.weight_shapes().keys():
            own = name if name in self.weights else EMBEDDING
            is_same = own == name and self.num_rows == base.config.vocab_size
            if is_same and shared.all():
                continue  # the file's matrix, as it is
            rest = Rows(lambda first, last: np.empty(0), "float32", None)
            if base.weights is not None:
                rest = rows_of(base.weights, name)
            files[name] = MixedRows(self.weights.file(own), own, shared, rest)
        return FullExpert(self.weights.reading(files).only(base.config.weight_shapes()))


@dataclasses.dataclass(frozen=True)
class OwnAdapter(OwnExpert):
    """A PEFT adapter; attributes of `OwnExpert`, and its content."""

    adapter: peft.Adapter

    @property
    def unties(self) -> bool:
        """As `OwnExpert.unties`."""
        return self.base.tie_word_embeddings and not all(
            peft.is_same_change(changes.get(EMBEDDING), changes.get(HEAD))
            for changes in (self.adapter.factors, self.adapter.replacements)
        )

    @property
    def num_rows(self) -> int:
        """As `OwnExpert.num_rows`."""
        _, replacements, copies = self.adapter
        for found in (replacements, copies):
            if EMBEDDING in found:
                return len(found[EMBEDDING])
        factor = self.adapter.factors.get(EMBEDDING)
        return self.base.vocab_size if factor is None else len(factor.b)

    def row(self, name: str, i: int, weights: Weights) -> np.ndarray:
        """As `OwnExpert.row`."""
        factors, replacements, copies = self.adapter
        of_base = name if name in weights else EMBEDDING
        found = [replacements.get(name), copies.get(name), copies.get(of_base)]
        whole = next((array for array in found if array is not None), None)
        count = len(whole) if whole is not None else self.base.vocab_size
        if i >= count:
            raise BadInputError(
                f"expert {self.folder}: has no row {i} of {name}, which its tokeniser "
                "has a token for; save it with embedding and head "
                "(save_embedding_layers=True)"
            )
        rows = rows_of(weights, of_base) if whole is None else None
        row = (rows.read(i, i + 1)[0] if rows else whole[i]).astype(np.float64)
        factor = factors.get(name)
        if factor is None:
            return row
        return row + factor.scale * (factor.b[i].astype(np.float64) @ factor.a)

    def fitted(self, base: Base) -> Expert:
        """As `OwnExpert.fitted`, with what the adapter says of its base."""
        if base.weights is not None:
            path = self.folder / peft.CONFIG
            check_named_base(path, base.source, base.config, base.weights)
        return super().fitted(base)

    def _fitted(self, base: Base) -> LoraExpert:
        if base.weights is not None:
            path = self.folder / peft.WEIGHTS
            peft.check_copies(
                self.adapter, base.weights, lambda n: self._shared(base, n), path
            )
        names = base.config.weight_shapes()
        factors = {n: f for n, f in self.adapter.factors.items() if n in names}
        whole = {n: a for n, a in self.adapter.replacements.items() if n in names}
        for name in (EMBEDDING, HEAD):
            if name in factors:
                b = factors[name].b
                factors[name] = factors[name]._replace(b=self._fit(base, b))
            if name in whole and base.weights is not None:
                rest = rows_of(base.weights, name)
                whole[name] = self._fit(base, whole[name], rest)
        return LoraExpert(factors, whole)

    def _fit(
        self, base: Base, array: np.ndarray, rest: Rows | None = None
    ) -> np.ndarray:
        """The array with the base's rows; others than shared ones are `rest`, or 0."""
        rows, shared = base.config.vocab_size, self._shared(base, len(array))
        if len(array) == rows and shared.all():
            return array
        fitted = np.zeros((rows, *array.shape[1:]), array.dtype)
        if rest is not None:
            fitted[:] = rest.read(0, rows)
        where = np.flatnonzero(shared)
        fitted[where] = array[where]
        return fitted


def open_own(folder: pathlib.Path, base: ModelConfig) -> OwnExpert:
    """Opens an expert of a base model; weights of a whole model are not read.

    Args:
      folder: holds a PEFT adapter or a whole model.
      base: config of the base model, as its folder has it.

    Raises:
      BadInputError: it is damaged, or computes another function than the base.
    """
    if (folder / peft.CONFIG).exists():
        return OwnAdapter(folder, base, peft.read_adapter(folder, base))
    config, weights = hf_folder.open_model(folder)
    check_same_function(folder, config, base)
    return OwnFull(folder, base, config, weights)
