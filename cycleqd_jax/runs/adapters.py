"""Individuals of a run as LoRA adapters."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from cycleqd_jax.merging.adapter_plan import AdapterPlan, plan_adapter
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.materialise import low_rank_factors, materialise
from cycleqd_jax.runs.opened import OpenedRun


def adapter_of(
    opened: OpenedRun,
    genome: Genome,
    base: Mapping[str, jax.Array],
    weights: Mapping[str, jax.Array] | None = None,
    *,
    tied_embeddings: bool,
    max_rank: int | None = None,
) -> AdapterPlan:
    """The adapter that changes the base as a genome does, as far as one can.

    Args:
      opened: the run of the genome.
      genome: one genome.
      base: weights of the base model, on the device.
      weights: those of the individual, in the run's dtype, if they are made already.
      tied_embeddings: whether the embedding is also the output head.
      max_rank: the largest rank of the adapter; None keeps the experts' ranks together.
    """
    dtype = opened.config.dtype
    if dtype != "float32":  # changes that round to nothing count too
        base = {name: w.astype(jnp.float32) for name, w in base.items()}
    if weights is None or dtype != "float32":
        weights = materialise(base, opened.basis, genome, opened.config.noise)
    factors = low_rank_factors(opened.basis, genome)
    return plan_adapter(
        base, weights, factors, tied_embeddings=tied_embeddings, max_rank=max_rank
    )
