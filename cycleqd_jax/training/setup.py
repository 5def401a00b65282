"""Loads and checks everything that the training of experts needs, before it starts."""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import CausalLM
from cycleqd_jax.models.dialogues import Example, fingerprint
from cycleqd_jax.models.families import make_program
from cycleqd_jax.models.loading import LoadedModel, load_model
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.engine_sizes import check_length, check_prompts
from cycleqd_jax.runs.tasks import make_tasks
from cycleqd_jax.runs.trackers import check_trackers
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.tasks.base import Split, Task
from cycleqd_jax.training import lora
from cycleqd_jax.training.curve import ValidationCurve
from cycleqd_jax.training.experts import Job
from cycleqd_jax.training.plan import (
    CURVE_DATA,
    plan_experts,
    status_of,
)
from cycleqd_jax.training.settings import JSONL, TrainConfig
from cycleqd_jax.training.sources import (
    Source,
    make_source,
    read_dialogues,
    task_dialogues,
    validation_dialogues,
)
from cycleqd_jax.training.start import Start, load_start


class Setup(NamedTuple):
    """The parts that the trainings of all experts share.

    Attributes:
      model: the base model on the host, with its tokenizer.
      program: the base model as functions.
      tasks: on which experts are scored.
      sources: examples, by the source's entry in the config.
      start: the adapter that LoRA starts from; None for fresh factors.
      curve: dialogues for the losses of `optimiser.validate_every`; None computes none.
    """

    model: LoadedModel
    program: CausalLM
    tasks: tuple[Task, ...]
    sources: Mapping[str, Source]
    start: Start | None = None
    curve: ValidationCurve | None = None


def set_up(config: TrainConfig, observer: Observer) -> tuple[Setup, tuple[Job, ...]]:
    """Loads and checks everything for all experts.

    Raises:
      BadInputError: the first thing that is wrong.
    """
    check_trackers(config.logging)
    entries = tuple(dict.fromkeys((*config.task_sources, *config.validation_tasks)))
    tasks = dict(
        zip(
            entries,
            make_tasks(entries, config.problems, config.task_settings),
            strict=True,
        )
    )
    scored = tuple(tasks[entry] for entry in config.validation_tasks)
    for task in scored:
        if not task.problems(Split.VALIDATE):
            raise BadInputError(
                f"problems.validate is 0, so {task.name} cannot be validated; set it "
                "to 1 or more."
            )
    plans = plan_experts(config, {entry: task.name for entry, task in tasks.items()})
    named = dict.fromkeys(source for plan in plans for source in plan.sources)
    dialogues = {
        source: read_dialogues(source)
        if source.endswith(JSONL)
        else task_dialogues(tasks[source])
        for source in named
    }
    observer.phase("loading the base model")
    # Full fine-tuning starts from the exact base weights, whatever dtype computes.
    dtype = config.dtype if config.method == "lora" else "float32"
    model = load_model(config.base_model, dtype=dtype, date=config.date)
    if remark := model.tokenizer.date_remark:
        observer.note(remark)
    program = make_program(model.config, config.dtype)
    start, facts = None, {"base model": model.fingerprint}
    if config.start_from is not None:
        start = load_start(config, model)
        facts["start"] = start.expert.fingerprint
        observer.note(f"training starts from {start.name}")
    elif config.method == "lora":
        lora.target_names(program, config.lora)
    if scored:
        if "auto" in (config.engine.slots, config.engine.length):
            raise BadInputError(
                "engine: slots and length cannot be auto in training; give numbers."
            )
        check_length(config.engine, model.config)
        check_prompts(scored, [Split.VALIDATE], model.tokenizer, config.engine)
        asyncio.run(make_sandbox(config.sandbox).close())  # refused here if missing
    sources = {
        name: make_source(
            name,
            found,
            model.tokenizer,
            max_length=config.optimiser.max_length,
            drop=config.too_long == "drop",
        )
        for name, found in dialogues.items()
    }
    for source in sources.values():
        if source.dropped:
            observer.note(
                f"{source.name}: {source.dropped} of {source.dialogues} dialogues are "
                f"longer than {config.optimiser.max_length} tokens and left out"
            )
    curve = None
    if config.optimiser.validate_every:
        held_out = {task.name: _held_out(task, model, config) for task in scored}
        rows = config.optimiser.batch_size // config.optimiser.accumulate_steps
        curve = ValidationCurve(held_out, rows)
        facts[CURVE_DATA] = fingerprint((1.0, found) for found in held_out.values())
    jobs = []
    for plan in plans:
        weighted = [(w, sources[name].examples) for name, w in plan.sources.items()]
        fingerprints = facts | {"data": fingerprint(weighted)}
        jobs.append(Job(plan, status_of(plan, config, fingerprints), fingerprints))
    return Setup(model, program, scored, sources, start, curve), tuple(jobs)


def _held_out(
    task: Task, model: LoadedModel, config: TrainConfig
) -> tuple[Example, ...]:
    """The right dialogues of a task's `validate` problems.

    Raises:
      BadInputError: there is none, or one is too long.
    """
    dialogues = validation_dialogues(task)
    if not dialogues:
        raise BadInputError(
            f"optimiser.validate_every is {config.optimiser.validate_every}, but "
            f"{task.name} has no right answers to its validate problems; leave it out "
            "of validate_on, or set validate_every to 0."
        )
    return make_source(
        task.name,
        dialogues,
        model.tokenizer,
        max_length=config.optimiser.max_length,
        drop=config.too_long == "drop",
    ).examples
