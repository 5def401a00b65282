"""The adapter that a LoRA training starts from, in place of fresh factors.

It is a PEFT folder, or an individual of a run: its genome is a LoRA adapter whose rank
is the sum of the experts'. Both give the same training: a genome starts with the very
factors that `experiments.export` writes.
"""

import os
import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.individuals import Recipe
from cycleqd_jax.models.base import EMBEDDING, HEAD
from cycleqd_jax.models.experts import Expert, LoraExpert
from cycleqd_jax.models.loading import LoadedModel, load_expert
from cycleqd_jax.models.sharding import put_on_device
from cycleqd_jax.runs.adapters import adapter_of
from cycleqd_jax.runs.fingerprints import stored_fingerprints
from cycleqd_jax.runs.opened import OpenedRun, open_run
from cycleqd_jax.training.lora import Factors
from cycleqd_jax.training.settings import TrainConfig


class Start(NamedTuple):
    """An adapter to start from.

    Attributes:
      expert: its factors, on the host, of any rank per matrix.
      name: what it is, for the model card.
    """

    expert: LoraExpert
    name: str

    @property
    def scale(self) -> float:
        """The one factor of `B A` in the training, that of the first matrix."""
        return next(iter(self.expert.factors.values())).scale

    def factors(self) -> Factors:
        """New arrays on the device; a matrix with another scale has it in its B."""
        return {
            name: {
                "a": jnp.array(f.a, jnp.float32),
                "b": jnp.array(f.b * np.float32(f.scale / self.scale), jnp.float32),
            }
            for name, f in sorted(self.expert.factors.items())
        }


def load_start(config: TrainConfig, model: LoadedModel) -> Start:
    """Reads what `start_from` and `start_individual` name.

    Args:
      config: the settings; `start_from` is given.
      model: the base model.

    Raises:
      BadInputError: it is missing, damaged, of another base model, or not exactly an
        adapter of linear layers.
    """
    path, asked = config.start_from, config.start_individual
    if os.path.isfile(pathlib.Path(path) / "config.yaml"):
        opened = open_run(path, finished=asked is None)
        name = f"{asked or opened.facts.result} of the run {path}"
        expert = _of_run(opened, asked or opened.facts.result, model)
    elif asked is not None:
        raise BadInputError(
            f"start_individual is {asked}, but {path} is not a run folder; make that "
            "run first, or leave start_individual out to start from an adapter."
        )
    else:
        name, expert = f"the adapter {path}", _loaded(path, model)
    check_adapter(expert, name)
    return Start(expert, name)


def _of_run(opened: OpenedRun, asked: str, model: LoadedModel) -> Expert:
    """An individual of a run."""
    wanted = stored_fingerprints(opened.path)["base model"]
    if model.fingerprint != wanted:
        run = opened.config
        raise BadInputError(
            f"start_from: the run {opened.path} is of another base model than this "
            f"training; it has base_model={run.base_model} dtype={run.dtype} "
            f"date={run.date} (sha256 {wanted[:12]}, here {model.fingerprint[:12]}); "
            "train with these, or export the individual and train from it as "
            "base_model."
        )
    individual = opened.individual(asked)
    if isinstance(individual, Recipe):
        raise BadInputError(
            f"start_from: {asked} of the run {opened.path} is a {individual.method} "
            "merge, which changes single elements and is no adapter; export it and "
            "train from it as base_model."
        )
    if not isinstance(individual, Genome):
        return opened.whole_models(model).expert(individual)
    plan = adapter_of(
        opened,
        individual,
        put_on_device(model.weights),
        tied_embeddings=model.config.tie_word_embeddings,
    )
    if not plan.is_exact:
        raise BadInputError(
            f"start_from: {asked} of the run {opened.path} is not exactly an adapter; "
            f"one would lose {plan.describe_loss()}. Choose another individual, or "
            "export this one and train from it as base_model."
        )
    return LoraExpert(plan.factors if plan.change else {})


def _loaded(path: str, model: LoadedModel) -> Expert:
    try:
        return load_expert(path, model)
    except BadInputError as err:
        raise BadInputError(f"start_from: {str(err).rstrip('.')}.") from err


def check_adapter(expert: Expert, name: str) -> None:
    """Refuses what is no adapter of linear layers.

    Raises:
      BadInputError: says what it is, under the name given.
    """
    wrong = None
    if not isinstance(expert, LoraExpert):
        wrong = "is a whole model; give it as base_model"
    elif expert.replacements:
        wrong = f"brings whole weights ({', '.join(sorted(expert.replacements))})"
    elif {EMBEDDING, HEAD} & expert.factors.keys():
        wrong = "changes the embedding or the head"
    elif not any(f.b.any() and f.a.any() for f in expert.factors.values()):
        wrong = "changes nothing; leave start_from out to train fresh factors"
    if wrong is not None:
        raise BadInputError(
            f"start_from: {name} {wrong}; expected a LoRA adapter of linear layers."
        )
