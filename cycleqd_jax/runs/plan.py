"""Plans a run: inputs, episodes, time.

Both a run and its dry run ask here, so that they refuse the same inputs in the same
words. Weights are not read, and the network is asked only for what is named by a URL.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.rungs import make_rungs, planned_episodes
from cycleqd_jax.files import shipped
from cycleqd_jax.files.remote import is_url, left_files
from cycleqd_jax.merging.core_basis import core_shapes
from cycleqd_jax.merging.forms import Basis, basis_shapes
from cycleqd_jax.models.base import WeightsConfig
from cycleqd_jax.models.expert_folders import open_experts
from cycleqd_jax.models.experts import Expert
from cycleqd_jax.models.families import is_segmentation, read_any_config
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.loading import load_tokenizer, open_config
from cycleqd_jax.models.locate import find_download, is_hub_name, locate
from cycleqd_jax.models.own_experts import Base
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.runs.engine_sizes import check_length, tokens_needed
from cycleqd_jax.runs.kinds import IMAGES, kind_of
from cycleqd_jax.runs.known_models import known_model
from cycleqd_jax.runs.memory import Machine, RunMemory
from cycleqd_jax.search.registry import search_class
from cycleqd_jax.tasks.base import Split, Task

_WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth")
# Share of the rate of a large matrix product that a run reached on two CPU cores.
_EFFICIENCY = 0.35


class Inputs(NamedTuple):
    """A run's models, without their weights.

    Attributes:
      base: sizes of the base model, its own and those that the run's models have.
      sizes_of: None if its weights are on this machine, else where the sizes are from.
      experts: in the order of `name_experts`; None for one that is not on this machine.
    """

    base: Base
    sizes_of: str | None
    experts: tuple[Expert | None, ...]

    @property
    def model(self) -> WeightsConfig:
        """Sizes of the run's models."""
        return self.base.config

    @property
    def are_here(self) -> bool:
        """True if all weights are on this machine."""
        return self.sizes_of is None and None not in self.experts

    def basis(self, config: RunConfig) -> Basis:
        """The shapes of the largest basis that the experts can make."""
        basis = basis_shapes(
            self.model.weight_shapes(),
            self.experts,
            config.basis,
            expert_names=tuple(config.name_experts(config.tasks)),
            dtype=config.dtype,
        )
        search, options = search_class(config.search), config.search_settings
        form = search.basis_form(config.qd, options)
        return core_shapes(basis) if form == "core" else basis


def find_inputs(config: RunConfig) -> Inputs:
    """Looks for the base model and the experts on this machine.

    Raises:
      BadInputError: as for `load_model` and `load_expert`; or the base model is neither
        here nor known.
    """
    model, sizes_of = find_base(config.base_model)
    of_images = kind_of(config) == IMAGES
    predicts_masks = is_segmentation(model.model_type)
    if of_images != predicts_masks:
        has, wants = ("segmentation", "language")[:: 1 if predicts_masks else -1]
        raise BadInputError(
            f"base_model: {config.base_model} is a {has} model (model_type "
            f"{model.model_type}), but the tasks {', '.join(config.tasks)} need a "
            f"{wants} model; change one of them."
        )
    if not of_images:
        check_length(config.engine, model)
    folders = [_expert_folder(source) for source in config.expert_paths]
    tokenizer = None
    if config.vocabulary == "union" and sizes_of is None and not of_images:
        tokenizer = load_tokenizer(config.base_model)
    base, experts = open_experts(model, tokenizer, folders, config.vocabulary)
    return Inputs(base, sizes_of, experts)


def _expert_folder(source: str) -> pathlib.Path | None:
    """The folder of an expert; None where it is still to be downloaded."""
    if is_url(source):
        return locate(source)
    if not is_hub_name(source):
        return shipped.find(source)
    folder = find_download(source)
    return folder if _is_downloaded(folder) else None


def find_base(source: str) -> tuple[WeightsConfig, str | None]:
    """Sizes of a base model, and where they are from if its weights are not here.

    Raises:
      BadInputError: it is not here and not known, or it is damaged.
    """
    hub = is_hub_name(source)
    path = find_download(source) if hub else locate(source)
    if path is not None and path.is_dir():
        is_here = _is_downloaded(path) if hub else _has_weights(path)
        if not is_here and (path / "config.json").is_file():
            return read_any_config(path), str(path / "config.json")
    if not hub or _is_downloaded(path):
        return open_config(path), None
    known = known_model(source)
    if known is None:
        raise BadInputError(
            f"base model {source!r}: is not on this machine, and its sizes are not "
            "known; download it, or give a folder with its config.json"
        )
    return known.config, known.name


def _has_weights(folder: pathlib.Path | None) -> bool:
    if folder is None:
        return False
    left = map(pathlib.PurePath, left_files(folder))
    there = [*left, *(path for path in folder.glob("*"))]
    return any(path.match(pattern) for path in there for pattern in _WEIGHT_FILES)


def _is_downloaded(folder: pathlib.Path | None) -> bool:
    """True if a folder of the hub's cache is whole; the run downloads what is not."""
    return _has_weights(folder) and not safetensors.missing_files(folder)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The needs of a run.

    Attributes:
      memory: sizes, and the mode of evaluation.
      machine: this one.
      inputs: the models.
      missing_data: why tasks could not be made, one sentence each.
      problems: per split, of all tasks together; None if some tasks' data are missing.
      episodes: by purpose; None likewise.
      seconds: a rough estimate on this machine; None if anything is missing.
    """

    memory: RunMemory
    machine: Machine
    inputs: Inputs
    missing_data: tuple[str, ...]
    problems: Mapping[str, int] | None
    episodes: Mapping[str, int] | None
    seconds: float | None

    @property
    def is_complete(self) -> bool:
        """True if all inputs are on this machine, so that all were checked."""
        return self.inputs.are_here and not self.missing_data


def make_plan(
    config: RunConfig,
    memory: RunMemory,
    machine: Machine,
    inputs: Inputs,
    tasks: Sequence[Task],
    missing_data: Sequence[str],
    episode_seconds: float | None = None,
    out_of_domain: Sequence[Task] = (),
) -> Plan:
    """Counts problems and episodes.

    Args:
      config: the settings.
      memory: of the run.
      machine: this one.
      inputs: the models.
      tasks: those whose data are on this machine.
      missing_data: see `Plan`.
      episode_seconds: from `estimate_episode`.
      out_of_domain: tasks that the search does not see.
    """
    problems = episodes = seconds = None
    if not missing_data:
        problems = {
            split: sum(len(task.problems(split)) for task in tasks)
            for split in (Split.OPTIMISE, Split.VALIDATE, Split.TEST)
        }
        experts, merges = (
            len(config.expert_paths),
            1 + len(config.baselines.scaled_merge_factors),
        )
        candidates = config.aggregation.candidates * len(tasks)
        counts = {  # models, on the problems of a split
            "experts and merges": (1 + experts + merges + 2, Split.OPTIMISE),
            "champions": (min(candidates, memory.state.individuals), Split.VALIDATE),
            # The base, the experts, two merges and two results.
            "comparison": (experts + 5, Split.TEST),
        }
        episodes = {"children": _children_episodes(config, tasks)}
        episodes |= {name: n * problems[split] for name, (n, split) in counts.items()}
        if out_of_domain:
            ours = sum(len(task.problems(Split.TEST)) for task in out_of_domain)
            episodes["out of domain"] = (experts + 5) * ours
        if config.population:
            episodes["population"] = config.population * problems[Split.TEST]
        if episode_seconds is not None:
            seconds = episode_seconds * sum(episodes.values())
    return Plan(
        memory, machine, inputs, tuple(missing_data), problems, episodes, seconds
    )


def _children_episodes(config: RunConfig, tasks: Sequence[Task]) -> int:
    """Episodes of all children; racing spares those that are rejected."""
    qd, problems = config.qd, [len(task.problems(Split.OPTIMISE)) for task in tasks]
    batches, rest = divmod(qd.num_generations, qd.children_per_batch)
    whole, last = (
        planned_episodes(make_rungs(config.racing, problems, children))
        for children in (qd.children_per_batch, rest)
    )
    return batches * whole + last


def estimate_episode(
    parameters: int, dtype: str, tasks: Sequence[Task], tokenizer: ChatTokenizer
) -> float:
    """Seconds per episode, from its tokens and the rate of a matrix product here."""
    tokens = [
        tokens_needed(task, task.problems(Split.OPTIMISE)[0], tokenizer)
        - task.max_new_tokens / 2
        for task in tasks
    ]
    return 2 * parameters * float(np.mean(tokens)) / reached_rate(dtype)


def reached_rate(dtype: str) -> float:
    """Operations per second that a run reaches here, from a matrix product's."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    start = time.perf_counter()
    product(x, x).block_until_ready()
    return 2 * size**3 / (time.perf_counter() - start) * _EFFICIENCY
