"""Trains all experts of a config, one after another, whatever their kind.

An expert's folder is renamed into place when it is complete. A killed training resumes
from its last checkpoint.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from cycleqd_jax import files
from cycleqd_jax.evaluation.base import Cost
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.trackers import Trackers
from cycleqd_jax.training.checkpoints import TrainCheckpoints
from cycleqd_jax.training.clock import Clock
from cycleqd_jax.training.plan import ExpertPlan, Status, write_facts
from cycleqd_jax.training.settings import ExpertsSettings
from cycleqd_jax.training.sft import Training, train
from cycleqd_jax.training.step import Params, StepMetrics
from cycleqd_jax.training.work_folder import WorkFolder

COST = "cost.json"
Scores = Mapping[str, Mapping[str, float]]  # "base" and "expert" -> task -> score
_NOTE_EVERY = 10  # steps


class Job(NamedTuple):
    """Attributes: an expert to train, how far it is, hashes of its inputs."""

    plan: ExpertPlan
    status: Status
    fingerprints: Mapping[str, str]


class Validation(NamedTuple):
    """Attributes: the scores, none without tasks, and the cost of making them."""

    scores: Scores
    cost: Cost


NO_VALIDATION = Validation({}, Cost(0, 0, 0.0))


class Kind(Protocol):
    """A kind of experts.

    Attributes:
      share: the name of a step's share of right answers, in logs and the history.
    """

    share: str

    def training(self, plan: ExpertPlan) -> Training:
        """The parameters that are trained, and their loss."""
        ...

    def stored(self, params: Params, training: Training) -> Any:
        """Trained parameters on the host, as `write` takes them."""
        ...

    def write(
        self, plan: ExpertPlan, work: WorkFolder, stored: Any, last: StepMetrics
    ) -> Validation:
        """Writes the expert's files into `work.expert` and scores them."""
        ...

    def cost(
        self, training: Training, seconds: float, spent: Cost
    ) -> tuple[Mapping[str, Any], str]:
        """The content of `cost.json`, and a line about it."""
        ...


def train_jobs(
    config: ExpertsSettings, jobs: Sequence[Job], kind: Kind, observer: Observer
) -> None:
    """Trains, validates and writes every expert that is not complete.

    Args:
      config: the settings.
      jobs: all experts; everything about them is checked.
      kind: of experts.
      observer: is told of phases, steps and scores.

    Raises:
      RunError: a training failed; it can be resumed.
    """
    for job in jobs:
        name = job.plan.name
        if job.status is Status.COMPLETE:
            observer.note(f"{name} is complete in {job.plan.folder} and is kept")
            if job.plan.work.is_dir():  # killed before it was removed
                with WorkFolder(job.plan.work) as work:
                    work.remove()
            continue
        start = time.perf_counter()
        with (
            WorkFolder(job.plan.work) as work,
            Trackers(
                config, job.plan.folder.parent / "logs" / name, observer.note
            ) as trackers,
        ):
            steps = config.optimiser.steps
            progress = _Progress(name, steps, kind.share, observer, trackers)
            scores = _make_expert(config, job, kind, work, progress)
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
    share: str
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
        words = self.share.replace("_", " ")
        if row.step % _NOTE_EVERY == 0 or row.step == self.steps:
            self.observer.note(
                f"{self.name} step {row.step}/{self.steps}  "
                f"loss {row.loss:.4f}  {words} {row.token_accuracy:.3f}"
            )
        if row.validation_loss is not None:
            shares = row.validation_token_accuracy
            found = (
                f"{task} {value:.4f} ({shares[task]:.3f})"
                for task, value in row.validation_loss.items()
            )
            self.observer.note(
                f"{self.name} step {row.step}/{self.steps}  "
                f"validation loss ({words}) {'  '.join(found)}"
            )

    def _log(self, row: StepMetrics) -> None:
        metrics = {"loss": row.loss, self.share: row.token_accuracy}
        for task, value in (row.validation_loss or {}).items():
            metrics[f"validation_loss/{task}"] = value
            metrics[f"validation_{self.share}/{task}"] = row.validation_token_accuracy[
                task
            ]
        self.trackers.log(metrics, row.step)


def _make_expert(
    config: ExpertsSettings, job: Job, kind: Kind, work: WorkFolder, progress: _Progress
) -> Scores:
    """Trains one expert, or resumes; then validates it and renames it into place."""
    name = job.plan.name
    if job.status is Status.NEW:
        work.start()
        write_facts(work.path, config, job.fingerprints)
    progress.observer.phase(f"training {name}")
    keep = 2 if config.method == "lora" else 1  # a full one has 12 bytes per parameter
    training = kind.training(job.plan)
    tasks = () if training.curve is None else training.curve.tasks
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
    stored = kind.stored(trained.params, training)
    del trained  # frees the device memory that validation of a full one needs
    scores, spent = kind.write(job.plan, work, stored, last)
    files.write_text(
        work.expert / "history.jsonl",
        "".join(_line(row, kind.share) for row in history),
    )
    cost, line = kind.cost(training, seconds, spent)
    files.write_json(work.expert / COST, cost)
    progress.observer.note(f"{name} took {line}")
    if scores:
        found = {f"validate/{task}": s for task, s in scores["expert"].items()}
        progress.trackers.summarise(found, last.step)
    write_facts(work.expert, config, job.fingerprints)
    work.finish(job.plan.folder)
    return scores


def _line(row: StepMetrics, share: str) -> str:
    """One line of an expert's history, without what was not computed."""
    found = {
        name.replace("token_accuracy", share): x
        for name, x in row._asdict().items()
        if x is not None
    }
    return json.dumps(found) + "\n"
