"""Scores of the base model and the stored expert on the `validate` problems."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from cycleqd_jax.evaluation.base import mean_scores
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.evaluation.local import LocalEvaluator
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.genome import base_genome, expert_genome
from cycleqd_jax.merging.individuals import Individual, TrainedExpert
from cycleqd_jax.models.base import CausalLM, Weights
from cycleqd_jax.models.experts import FullExpert, LoraExpert
from cycleqd_jax.models.loading import LoadedModel
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.tasks.base import Split, Task
from cycleqd_jax.training.experts import Validation
from cycleqd_jax.training.settings import TrainConfig


def validate_lora(
    config: TrainConfig,
    expert: LoraExpert,
    model: LoadedModel,
    program: CausalLM,
    weights: Weights,
    tasks: Sequence[Task],
) -> Validation:
    """Accuracy of base model and adapter, evaluated in one pass.

    Args:
      config: engine and sandbox.
      expert: as read back from its files.
      model: the base model on the host.
      program: the base model as functions.
      weights: of the base model, on the device.
      tasks: at least one.
    """
    basis = compute_basis(model.weights, [expert])
    models = {"base": base_genome(basis), "expert": expert_genome(basis, 0)}
    loader = IndividualLoader(
        engine=Engine(program, model.tokenizer, config.engine),
        weights=weights,
        basis=basis,
        mode="factored",
        individuals_per_pass=len(models),
    )
    return _scores(config, loader, models, tasks)


def validate_full(
    config: TrainConfig,
    expert: FullExpert,
    model: LoadedModel,
    program: CausalLM,
    tasks: Sequence[Task],
) -> Validation:
    """Accuracy of base model and full fine-tune, one after the other.

    Arguments as for `validate_lora`; only one of the models is on the device at a time.
    """
    # Not as genomes: the basis would take hundreds of decompositions for nothing.
    models = {name: TrainedExpert(name) for name in ("base", "expert")}
    weights = {"base": model.weights, "expert": expert.weights}
    loader = IndividualLoader(
        engine=Engine(program, model.tokenizer, config.engine),
        weights={},
        whole=_HostWeights(weights, program),
    )
    return _scores(config, loader, models, tasks)


def _scores(
    config: TrainConfig,
    loader: IndividualLoader,
    models: Mapping[str, Individual],
    tasks: Sequence[Task],
) -> Validation:
    """Mean scores of the models on the `validate` problems."""
    sandbox = make_sandbox(config.sandbox)
    with LocalEvaluator(loader, tasks=tasks, sandbox=sandbox) as evaluator:
        found = evaluator.evaluate(models, Split.VALIDATE)
    return Validation(mean_scores(found.episodes), found.cost)


class _HostWeights(NamedTuple):
    """Weights on the host, by the name of a `TrainedExpert`; a `WeightsSource`."""

    by_name: Mapping[str, Mapping[str, Any]]
    program: CausalLM

    def weights(self, individual: TrainedExpert) -> Weights:
        """Puts the weights of one model on the device."""
        found, dtype = self.by_name[individual.name], self.program.dtype
        return {name: jnp.asarray(w, dtype) for name, w in found.items()}
