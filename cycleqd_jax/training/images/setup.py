"""Loads and checks everything that the training on images needs, before it starts."""

import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.experts import weights_fingerprint
from cycleqd_jax.models.families import make_segmentation_program
from cycleqd_jax.models.formats.hf_folder import open_segmentation_model
from cycleqd_jax.models.locate import locate
from cycleqd_jax.models.segmentation import SegmentationModel
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.trackers import check_trackers
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.tasks.segmentation.registry import make_data_set
from cycleqd_jax.tasks.segmentation.task import ImageTask
from cycleqd_jax.training import lora
from cycleqd_jax.training.experts import Job
from cycleqd_jax.training.images.batches import ImageCurve, Images
from cycleqd_jax.training.plan import (
    CURVE_DATA,
    ExpertPlan,
    Status,
    plan_experts,
    status_of,
)
from cycleqd_jax.training.settings import ImagesConfig


class SegmentationBase(NamedTuple):
    """A segmentation model to train from.

    Attributes:
      program: the model as functions, in float32.
      weights: float32, on the host; read when they are asked for.
      fingerprint: Sha256 (hex) of weights and settings.
    """

    program: SegmentationModel
    weights: Mapping[str, np.ndarray]
    fingerprint: str


class ImageSetup(NamedTuple):
    """The parts that the trainings of all experts share.

    Attributes:
      base: the base model.
      tasks: on which experts are scored.
      sources: `train` images by the source's entry in the config.
      curve: images of `optimiser.validate_every`; None computes no losses.
    """

    base: SegmentationBase
    tasks: tuple[ImageTask, ...]
    sources: Mapping[str, Images]
    curve: ImageCurve | None


def set_up(
    config: ImagesConfig, observer: Observer
) -> tuple[ImageSetup, tuple[Job, ...]]:
    """Loads and checks everything for all experts.

    Raises:
      BadInputError: the first thing that is wrong.
      MissingDataError: a data set is not on this machine.
    """
    check_trackers(config.logging)
    tasks = make_image_tasks(config)
    scored = tuple(tasks[entry] for entry in config.validation_tasks)
    for task in scored:
        if not task.problems(Split.VALIDATE):
            raise BadInputError(
                f"problems.validate is 0, so {task.name} cannot be validated; set it "
                "to 1 or more, or leave it out of validate_on."
            )
    plans = plan_experts(config, {entry: task.name for entry, task in tasks.items()})
    for plan in plans:
        _check_prompts(plan, tasks)
    observer.phase("loading the base model")
    base = open_base(config.base_model)
    if config.method == "lora":
        lora.target_names(base.program, config.lora)
    size = base.program.config.image_size
    sources = {
        entry: Images(tasks[entry].data, Split.TRAIN, size)
        for entry in config.task_sources
    }
    curve, facts = None, {"base model": base.fingerprint}
    if config.optimiser.validate_every:
        held_out = {
            task.name: Images(task.data, Split.VALIDATE, size) for task in scored
        }
        rows = config.optimiser.batch_size // config.optimiser.accumulate_steps
        curve = ImageCurve(held_out, rows)
        facts[CURVE_DATA] = _hash(
            [[task.fingerprint, held_out[task.name].ids] for task in scored]
        )
    jobs = []
    for plan in plans:
        used = [
            [weight, tasks[entry].fingerprint, sources[entry].ids]
            for entry, weight in plan.sources.items()
        ]
        prints = facts | {"data": _hash(used)}
        jobs.append(Job(plan, status_of(plan, config, prints), prints))
    if any(job.status is not Status.COMPLETE for job in jobs):
        observer.phase("drawing or reading the images")
        for images in sources.values():
            images.check()
    return ImageSetup(base, scored, sources, curve), tuple(jobs)


def make_image_tasks(config: ImagesConfig) -> dict[str, ImageTask]:
    """The data sets of a config, by their entries in it.

    Raises:
      BadInputError: one is unknown or no data set of images.
      MissingDataError: one is not on this machine.
    """
    entries = dict.fromkeys((*config.task_sources, *config.validation_tasks))
    return {entry: _make_task(entry, config) for entry in entries}


def _make_task(entry: str, config: ImagesConfig) -> ImageTask:
    own = config.task_settings.get(entry, {})
    settings = config.problems.task_settings(own)
    if ":" not in entry:
        return ImageTask(make_data_set(entry, settings))
    # Imported here, since it imports the tasks of language models too.
    from cycleqd_jax.tasks.registry import make_task

    task = make_task(entry, settings)
    if not isinstance(task, ImageTask):
        raise BadInputError(
            f"{entry} is no data set of images; see docs/segmentation.md."
        )
    return task


def open_base(source: str) -> SegmentationBase:
    """Opens the folder of a segmentation model.

    Args:
      source: a folder, URL or hub name, as `base_model` of a config.

    Raises:
      BadInputError: it is missing, damaged or of another kind.
    """
    folder = locate(source)
    if folder.is_file():
        raise BadInputError(
            f"base_model {source}: is a file; expected the folder of a segmentation "
            "model, with config.json and safetensors weights."
        )
    config, stored = open_segmentation_model(folder)
    weights = stored.cast_to(np.dtype("float32"))
    found = _hash([weights_fingerprint(weights), config.to_hf()])
    return SegmentationBase(make_segmentation_program(config), weights, found)


def _check_prompts(plan: ExpertPlan, tasks: Mapping[str, ImageTask]) -> None:
    """Refuses sources of one expert whose images have different prompts."""
    kinds = {entry: tasks[entry].prompt for entry in plan.sources}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{kind} ({name})" for name, kind in kinds.items())
        raise BadInputError(
            f"experts: the sources of {plan.name} have the prompts {found}; expected "
            "one kind, set task_settings.NAME.prompt."
        )


def _hash(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
