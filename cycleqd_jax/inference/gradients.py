"""Gradients of the loss of texts, by the coefficients of the genomes that read them.

The base weights and the directions of the basis are shared by all genomes and stay as
they are; only coefficients are differentiated. A row is one text for one genome:

    loss_p = - sum_r weight_r sum_i log p(token_ri | tokens of r before i),   r of p

Rows are computed a few at a time, in programs whose shape depends on the row alone, and
added to their genome's gradient in their own order. So a genome gets the same bits
whatever genomes are asked beside it, as far as a row's bits do not depend on its
neighbours; and memory does not grow with the number of rows.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.inference.population import (
    Population,
    empty_population,
    with_individual,
)
from cycleqd_jax.inference.rows import SHORTEST, Batch, Row, by_shape, pack
from cycleqd_jax.inference.sampling import logprob_of
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.models.base import CausalLM, Deltas, LowRank, ModelConfig, Weights

# What the layers of a call may store for the backward pass; one that would store more
# recomputes them, which takes a third more time.
STORED_BYTES = 2**30


class RowGradients(NamedTuple):
    """The result of a call.

    Attributes:
      logprobs: natural log-probability of each row's learnt tokens, float32 `[rows]`.
      gradients: of each genome's loss by its coefficients, float32 `[P, G]`.
    """

    logprobs: np.ndarray
    gradients: np.ndarray


def check_differentiable(basis: Basis, devices: int = 1) -> None:
    """Refuses what gradients are not computed for.

    Args:
      basis: of the genomes, or its shapes.
      devices: number of devices of the mesh.

    Raises:
      BadInputError: the basis has dense residuals or no coefficients, or there are
        several devices.
    """
    if not basis.genome_size:
        raise BadInputError(
            "experts: none of them changes a matrix, so there are no coefficients to "
            "compute gradients by; choose a search or an operator without gradients."
        )
    if basis.residuals:
        raise BadInputError(
            "basis.residual is keep, but gradients need genomes in factored form, "
            "which have no dense residuals; set it to drop."
        )
    if devices > 1:
        raise BadInputError(
            f"engine.mesh has {devices} devices, but gradients are computed on one; "
            "leave engine.mesh out."
        )


def stored_bytes(model: ModelConfig, *, rows: int, length: int, itemsize: int) -> int:
    """The memory that layers take for the backward pass of a call, about.

    Counted are the inputs and outputs of the matrices, and attention's weights.

    Args:
      model: sizes of the base model.
      rows: B of the call.
      length: L.
      itemsize: bytes of a number of the computation.
    """
    per_token = 12 * model.hidden_size + 4 * model.intermediate_size
    attention = 2 * model.num_attention_heads * length
    layers = model.num_hidden_layers * (per_token + attention)
    return rows * length * layers * itemsize


def gradient_bytes(
    model: ModelConfig,
    basis: Basis,
    *,
    itemsize: int,
    num_genomes: int,
    num_tokens: int,
) -> int:
    """The memory of a call beside base weights and basis.

    Counted are coefficients and gradients, of all genomes and of the rows of a call,
    what all layers store or, where they are recomputed, their inputs, and logits with
    their gradient.

    Args:
      model: sizes of the base model.
      basis: of the genomes, or its shapes.
      itemsize: bytes of a number of the computation.
      num_genomes: as for `CoefficientGradients`.
      num_tokens: likewise.
    """
    rows = max(num_tokens // SHORTEST, 1)
    stored = stored_bytes(model, rows=1, length=num_tokens, itemsize=itemsize)
    layers = num_tokens * model.hidden_size * model.num_hidden_layers * itemsize
    layers = max(layers, min(STORED_BYTES, stored))
    logits = 2 * 4 * num_tokens * model.vocab_size
    return 2 * 4 * (num_genomes + rows) * basis.genome_size + layers + logits


class CoefficientGradients:
    """Computes gradients; its programs have a fixed number of genomes and tokens."""

    def __init__(
        self, program: CausalLM, basis: Basis, *, num_genomes: int, num_tokens: int
    ):
        """Compiles nothing yet.

        Args:
          program: the model.
          basis: of the genomes, in either form; its directions are not copied.
          num_genomes: P of a call; programs are compiled for this number.
          num_tokens: tokens of all rows of a device call, padding included; a longer
            row is a call of its own.

        Raises:
          BadInputError: see `check_differentiable`.
        """
        check_differentiable(basis)
        self._program = program
        self._basis = basis
        self._empty = empty_population(basis, num_genomes)
        self._num_tokens = num_tokens

    @property
    def num_genomes(self) -> int:
        """P, the most genomes of a call."""
        return self._empty.count

    def __call__(
        self, weights: Weights, genomes: Sequence[Genome], rows: Sequence[Row]
    ) -> RowGradients:
        """Gradients of some genomes.

        Args:
          weights: the base model's, on the device.
          genomes: at most P, without noise.
          rows: of all genomes.

        Raises:
          ValueError: there are too many genomes, or one has noise.
        """
        if len(genomes) > self.num_genomes:
            raise ValueError(
                f"genomes: expected at most {self.num_genomes}, got {len(genomes)}."
            )
        population = self._empty
        for i, genome in enumerate(genomes):
            if genome.noise is not None and np.any(genome.noise):
                raise ValueError(
                    f"genomes: expected none with Gaussian noise, but genome {i} has "
                    "some; gradients need genomes in factored form."
                )
            population = with_individual(population, self._basis, genome, i)
        logprobs, computed = np.zeros(len(rows), np.float32), []
        totals = jnp.zeros((self.num_genomes, self._basis.genome_size), jnp.float32)
        for shape, indices in by_shape(rows).items():
            size = max(self._num_tokens // shape[0], 1)
            stored = stored_bytes(
                self._program.config,
                rows=size,
                length=shape[0],
                itemsize=jnp.dtype(self._program.dtype).itemsize,
            )
            for first in range(0, len(indices), size):
                some = indices[first : first + size]
                totals, found = _add_gradients(
                    totals,
                    weights,
                    population,
                    pack([rows[i] for i in some], size, *shape, self.num_genomes),
                    program=self._program,
                    recompute=stored > STORED_BYTES,
                )
                computed.append((some, found))
        for some, found in computed:  # only now wait for the device
            logprobs[some] = np.asarray(found)[: len(some)]
        return RowGradients(logprobs, np.asarray(totals)[: len(genomes)])


@functools.partial(
    jax.jit, static_argnames=("program", "recompute"), donate_argnames="totals"
)
def _add_gradients(
    totals: jax.Array,
    weights: Weights,
    population: Population,
    batch: Batch,
    *,
    program: CausalLM,
    recompute: bool,
) -> tuple[jax.Array, jax.Array]:
    """Adds the rows' gradients to `totals`, `[P, G]`; also the rows' logprobs."""
    # One array per matrix: a gradient by slices of one array would be a sum of arrays
    # of its whole size.
    own = population.coefficients.at[batch.genomes].get(mode="clip")
    parts = {
        name: own[:, start : start + size] for name, start, size in population.layout
    }
    vectors = {
        name: table.at[batch.genomes].get(mode="clip")
        for name, table in population.vectors.items()
    }

    def loss(parts: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        matrices = {
            name: _low_rank(population.u[name], population.v[name], c)
            for name, c in parts.items()
        }
        deltas = Deltas(matrices, vectors)
        hidden = program.hidden(
            weights, batch.tokens, deltas, lengths=batch.lengths, recompute=recompute
        )
        hidden = jnp.take_along_axis(hidden, batch.places[..., None], axis=1)
        logits = program.logits(weights, hidden, deltas)
        learnt = jnp.where(batch.is_learnt, logprob_of(logits, batch.targets), 0.0)
        logprobs = jnp.sum(learnt, axis=1)
        return -jnp.sum(logprobs * batch.weights), logprobs

    by_part, logprobs = jax.grad(loss, has_aux=True)(parts)
    gradients = jnp.concatenate(
        [by_part[name] for name, _, _ in population.layout], axis=1
    )

    def add(row: jax.Array, totals: jax.Array) -> jax.Array:
        return totals.at[batch.genomes[row]].add(gradients[row], mode="drop")

    # One row after the other: the order of a sum decides its bits.
    return jax.lax.fori_loop(0, batch.tokens.shape[0], add, totals), logprobs


def _low_rank(u: jax.Array, v: jax.Array, c: jax.Array) -> LowRank:
    """Diagonals `[B, R]` as they are, cores `[B, Ru * Rv]` as matrices."""
    if c.shape[1] == u.shape[1] == v.shape[1]:
        return LowRank(u, v, c)
    return LowRank(u, v, c.reshape(-1, u.shape[1], v.shape[1]))
