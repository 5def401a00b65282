"""Trains all experts of a config, one after another.

An expert's folder is renamed into place when it is complete. A killed training resumes
from its last checkpoint.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax

from cycleqd_jax import files
from cycleqd_jax.models.base import Weights
from cycleqd_jax.models.sharding import put_on_device
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.trackers import Trackers
from cycleqd_jax.training import full, lora
from cycleqd_jax.training.batches import Batches
from cycleqd_jax.training.checkpoints import TrainCheckpoints
from cycleqd_jax.training.cost import NAME as COST
from cycleqd_jax.training.cost import Clock, training_cost
from cycleqd_jax.training.plan import ExpertPlan, Status, write_facts
from cycleqd_jax.training.settings import TrainConfig
from cycleqd_jax.training.setup import Job, Setup, set_up
from cycleqd_jax.training.sft import Training, train
from cycleqd_jax.training.step import Method, Params, StepMetrics
from cycleqd_jax.training.validate import Scores
from cycleqd_jax.training.work_folder import WorkFolder
from cycleqd_jax.training.write import write_full, write_lora

_NOTE_EVERY = 10  # steps


def train_experts(config: TrainConfig, observer: Observer) -> None:
    """Trains, validates and writes every expert that is not complete.

    Args:
      config: the settings.
      observer: is told of phases, steps and scores.

    Raises:
      BadInputError: a setting, source or folder of any expert is wrong; nothing was
        trained.
      RunError: a training failed; it can be resumed.
    """
    setup, jobs = set_up(config, observer)
    weights: Weights = {}
    for job in jobs:
        name = job.plan.name
        if job.status is Status.COMPLETE:
            observer.note(f"{name} is complete in {job.plan.folder} and is kept")
            if job.plan.work.is_dir():  # killed before it was removed
                with WorkFolder(job.plan.work) as work:
                    work.remove()
            continue
        if not weights and config.method == "lora":
            weights = put_on_device(setup.model.weights)
        start = time.perf_counter()
        with (
            WorkFolder(job.plan.work) as work,
            Trackers(
                config, job.plan.folder.parent / "logs" / name, observer.note
            ) as trackers,
        ):
            progress = _Progress(name, config.optimiser.steps, observer, trackers)
            scores = _make_expert(config, setup, job, weights, work, progress)
        shown = ""
        if scores:
            pairs = (f"{task} {s:.3f}" for task, s in scores["expert"].items())
            shown = f"validation {'  '.join(pairs)}  "
        observer.note(
            f"{name}: {shown}({time.perf_counter() - start:.0f} s) -> {job.plan.folder}"
        )


class _Progress(NamedTuple):
    """Reports the training of one expert to observer and trackers."""

    name: str
    steps: int
    observer: Observer
    trackers: Trackers

    def restored(self, history: tuple[StepMetrics, ...]) -> None:
        """Logs the steps of an earlier process; W&B skips those it has."""
        self.observer.note(
            f"{self.name} resumes from its checkpoint of step {history[-1].step}"
        )
        for row in history:
            self._log(row)

    def step(self, row: StepMetrics) -> None:
        """Reports one step."""
        self._log(row)
        self.observer.episodes(row.step, self.steps)
        if row.step % _NOTE_EVERY == 0 or row.step == self.steps:
            self.observer.note(
                f"{self.name} step {row.step}/{self.steps}  "
                f"loss {row.loss:.4f}  token accuracy {row.token_accuracy:.3f}"
            )
        if row.validation_loss is not None:
            shares = row.validation_token_accuracy
            found = (
                f"{task} {value:.4f} ({shares[task]:.3f})"
                for task, value in row.validation_loss.items()
            )
            self.observer.note(
                f"{self.name} step {row.step}/{self.steps}  "
                f"validation loss (token accuracy) {'  '.join(found)}"
            )

    def _log(self, row: StepMetrics) -> None:
        metrics = {"loss": row.loss, "token_accuracy": row.token_accuracy}
        for task, value in (row.validation_loss or {}).items():
            metrics[f"validation_loss/{task}"] = value
            metrics[f"validation_token_accuracy/{task}"] = (
                row.validation_token_accuracy[task]
            )
        self.trackers.log(metrics, row.step)


def _make_expert(
    config: TrainConfig,
    setup: Setup,
    job: Job,
    weights: Weights,
    work: WorkFolder,
    progress: _Progress,
) -> Scores:
    """Trains one expert, or resumes; then validates it and renames it into place."""
    name = job.plan.name
    if job.status is Status.NEW:
        work.start()
        write_facts(work.path, config, job.fingerprints)
    progress.observer.phase(f"training {name}")
    keep = 2 if config.method == "lora" else 1  # a full one has 12 bytes per parameter
    tasks = () if setup.curve is None else setup.curve.tasks
    training = _training(config, setup, job.plan, weights)
    clock = Clock(work.clock)

    def on_step(row: StepMetrics) -> None:
        progress.step(row)
        if row.step % config.optimiser.checkpoint_every == 0:
            clock.save()

    with TrainCheckpoints(work.checkpoints, keep=keep, validation=tasks) as checkpoints:
        trained = train(
            training,
            checkpoints=checkpoints,
            on_restored=progress.restored,
            on_step=on_step,
        )
    clock.save()
    seconds = clock.seconds
    history, last = trained.history, trained.history[-1]
    progress.observer.phase(f"writing and validating {name}")
    if config.method == "lora":
        stored = lora.as_stored(trained.params, training.method.scale)
        scores, spent = write_lora(config, setup, job.plan, weights, work, stored, last)
    else:
        stored = full.to_numpy(trained.params, config.save_dtype)
        del trained  # frees the device memory that validation needs
        scores, spent = write_full(config, setup, job.plan, work, stored, last)
    files.write_text(
        work.expert / "history.jsonl",
        "".join(_line(row) for row in history),
    )
    cost = training_cost(training, seconds, spent)
    files.write_json(work.expert / COST, cost)
    progress.observer.note(
        f"{name} took {cost['tokens_forward']} tokens forward and "
        f"{cost['tokens_backward']} backward"
    )
    if scores:
        found = {f"validate/{task}": s for task, s in scores["expert"].items()}
        progress.trackers.summarise(found, last.step)
    write_facts(work.expert, config, job.fingerprints)
    work.finish(job.plan.folder)
    return scores


def _training(
    config: TrainConfig, setup: Setup, plan: ExpertPlan, weights: Weights
) -> Training:
    key = jax.random.fold_in(jax.random.key(config.seed), plan.number)
    init_key, order_key = jax.random.split(key)
    method: Method
    init: Callable[[], Params]
    if config.method == "full":
        method = full.Full(config.dtype)
        init = partial(full.init_masters, setup.model.weights)
    elif setup.start is not None:
        method, init = lora.Lora(setup.start.scale), setup.start.factors
    else:
        method = lora.Lora(config.lora.scale)
        init = partial(lora.init_factors, setup.program, config.lora, init_key)
    return Training(
        program=setup.program,
        weights=weights,
        method=method,
        init=init,
        batches=Batches(
            [setup.sources[name].examples for name in plan.sources],
            list(plan.sources.values()),
            batch_size=config.optimiser.batch_size,
            steps=config.optimiser.steps,
            seed=int(jax.random.bits(order_key)),
            packing=config.packing,
            multiple_of=config.optimiser.accumulate_steps,
        ),
        optimiser=config.optimiser,
        recompute=config.gradient_checkpointing,
        curve=setup.curve,
    )


def _line(row: StepMetrics) -> str:
    """One line of an expert's history, without what was not computed."""
    found = {name: x for name, x in row._asdict().items() if x is not None}
    return json.dumps(found) + "\n"
