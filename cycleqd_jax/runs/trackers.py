"""Shows the metrics of a run or a training in TensorBoard and Weights & Biases.

Both packages are optional and only written to. A run's metrics are read from its own
tables, after the checkpoint that counts them, so a resumed run shows each step once.
"""

import contextlib
import importlib.util
import itertools
import math
import pathlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from cycleqd_jax import files
from cycleqd_jax.config import LoggingSettings, RunConfig
from cycleqd_jax.errors import BadInputError, CycleQDError
from cycleqd_jax.progress import BatchSummary, Observer, Observers
from cycleqd_jax.runs.facts import read_facts
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.reading import read_scores

Metrics = Mapping[str, float]
_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def check_trackers(config: LoggingSettings) -> None:
    """Raises BadInputError, with the pip command, if a package is not installed."""
    for name in config.to:
        spec = importlib.util.find_spec(_PACKAGES[name])
        # W&B leaves a folder "wandb", which Python takes for a package without origin.
        if spec is None or spec.origin is None:
            raise BadInputError(
                f"logging.to names {name}, but the Python package {_PACKAGES[name]} is "
                f"not installed; type: pip install {_PACKAGES[name]}"
            )


class Trackers:
    """The trackers of one run or training; one that fails is dropped with one note.

    Args:
      config: of a run or a training; its `logging.to` may be empty.
      folder: where the trackers write.
      note: takes a sentence for the reader.

    Raises:
      BadInputError: a package is missing, or W&B wants a login.
    """

    def __init__(self, config: Any, folder: pathlib.Path, note: Callable[[str], None]):
        check_trackers(config.logging)
        self._note = note
        self._open: dict[str, _TensorBoard | _WeightsAndBiases] = {}
        kinds = {"tensorboard": _TensorBoard, "wandb": _WeightsAndBiases}
        try:
            for name in config.logging.to:
                with self._dropping(name):
                    self._open[name] = kinds[name](folder, config)
        except BadInputError:
            self._each(lambda tracker: tracker.close(failed=True))
            raise

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        self._each(lambda tracker: tracker.close(failed=kind is not None))

    def log(self, metrics: Metrics, step: int) -> None:
        """Records the metrics of one step; steps rise."""
        self._each(lambda tracker: tracker.log(metrics, step))

    def summarise(self, metrics: Metrics, step: int) -> None:
        """Records final metrics, after the last step; may be called again."""
        self._each(lambda tracker: tracker.summarise(metrics, step))

    def _each(self, call: Callable[[Any], None]) -> None:
        for name, tracker in list(self._open.items()):
            with self._dropping(name):
                call(tracker)

    @contextlib.contextmanager
    def _dropping(self, name: str) -> Iterator[None]:
        try:
            yield
        except BadInputError:
            raise
        except Exception as err:  # noqa: BLE001 - no failure of a tracker stops a run
            self._open.pop(name, None)
            self._note(
                f"Logging to {name} stopped ({type(err).__name__}: {_line(err)}); "
                "the run goes on."
            )


class _TensorBoard:
    """Event files in `<folder>/tensorboard`, rewritten from the first step at resume.

    Not `SummaryWriter`: a full disk ends the thread that empties its queue, and once
    the queue is full, `add_scalar` blocks for ever. `EventsWriter` is its file writer.
    """

    def __init__(self, folder: pathlib.Path, config: Any):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        target = folder / "tensorboard"
        target.mkdir(parents=True, exist_ok=True)
        for old in target.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer, self._event = EventsWriter(str(target / "events")), Event
        # A TensorBoard that is watching forgets the steps of the old file.
        self._write(step=0, session_log=SessionLog(status=SessionLog.START))

    def log(self, metrics: Metrics, step: int) -> None:
        values = [{"tag": tag, "simple_value": x} for tag, x in metrics.items()]
        self._write(step=step, summary={"value": values})

    summarise = log

    def close(self, *, failed: bool) -> None:
        self._writer.close()

    def _write(self, **content: Any) -> None:
        try:
            self._writer.write_event(self._event(wall_time=time.time(), **content))
            self._writer.flush()
        except OSError:
            with contextlib.suppress(OSError):
                self._writer.close()
            raise


class _WeightsAndBiases:
    """One W&B run per folder.

    Offline, W&B does not know which steps an earlier process logged. So the id of its
    run and the last logged step are kept in `<folder>/wandb/cycleqd_jax.json`.
    """

    def __init__(self, folder: pathlib.Path, config: Any):
        import wandb

        self._path = folder / "wandb" / "cycleqd_jax.json"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._state = {"id": secrets.token_hex(4), "logged": -1}
        if self._path.is_file():
            self._state |= files.read_json(self._path)
        try:
            self._run = wandb.init(
                project=config.logging.project,
                name=folder.resolve().name,
                dir=str(folder),
                id=self._state["id"],
                resume="allow",
                config=config.model_dump(mode="json"),
                allow_val_change=True,
                # Without a network the end of a run waits two minutes at most.
                settings=wandb.Settings(console="off", finish_timeout=120),
            )
        except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as err:
            raise BadInputError(
                f"logging.to names wandb, but Weights & Biases refuses: {_line(err)} "
                "Log in with `wandb login`, or set WANDB_MODE=offline."
            ) from err
        files.write_json(self._path, self._state)

    def log(self, metrics: Metrics, step: int) -> None:
        if step > self._state["logged"]:
            self._run.log(dict(metrics), step=step, commit=True)
            self._state["logged"] = step
            files.write_json(self._path, self._state)

    def summarise(self, metrics: Metrics, step: int) -> None:
        self._run.summary.update(dict(metrics))

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class RunTracking(Observer):
    """Logs each batch of a run, and the comparison of models at its end."""

    def __init__(
        self, trackers: Trackers, folder: RunFolder, note: Callable[[str], None]
    ):
        self._trackers, self._folder, self._note = trackers, folder, note
        self._logged = 0  # last generation that this process logged
        self._seconds = {
            row.get("generation"): row.get("seconds")
            for row in files.read_log(folder.path / "timing.jsonl")
        }

    def batch(self, summary: BatchSummary) -> None:
        """Logs all batches up to this one that were not logged yet."""
        self._seconds[summary.generation] = summary.seconds
        with self._noting_errors():
            self._log_batches(summary.generation)

    def compared(self, generation: int) -> None:
        """Logs `<split>/<model>/<task>` and `<split>/<model>/mean`."""
        with self._noting_errors():
            self._log_batches(generation)
            self._trackers.summarise(_comparison(self._folder.path), generation)

    @contextlib.contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except (CycleQDError, OSError, ValueError, KeyError) as err:
            self._note(f"Not logged: {err}")

    def _log_batches(self, last: int) -> None:
        for name in self._folder.batches():
            if self._logged < int(name.removeprefix("batch-")) <= last:
                table = files.read_table(self._folder.part("metrics", name)).to_pydict()
                step = table["generation"][-1]
                self._trackers.log(batch_metrics(table, self._seconds.get(step)), step)
                self._logged = step


@contextlib.contextmanager
def track_run(
    config: RunConfig, folder: RunFolder, observer: Observer
) -> Iterator[Observer]:
    """An observer that also logs to the trackers of the config; see `Trackers`."""
    with Trackers(config, folder.path, observer.note) as trackers:
        yield Observers(observer, RunTracking(trackers, folder, observer.note))


def batch_metrics(
    columns: Mapping[str, Sequence[Any]], seconds: float | None
) -> dict[str, float]:
    """Metrics of a batch, from the columns of its table and its wall time.

    Returns:
      The search's metrics after the batch, like `best/<task>`; `score/<task>` and
      `smooth/<task>` and `retention`, the means over the children that were evaluated
      completely, and `score/mean`, the mean over the tasks; and `children_per_minute`
      if the time is known.
    """
    metrics, scores = {}, {}
    for name, column in columns.items():
        if name.startswith("score/"):
            complete = columns.get("complete", [True] * len(column))
            scores[name] = fmean(itertools.compress(column, complete))
        elif name.startswith("smooth/") or name == "retention":
            if known := [value for value in column if not math.isnan(value)]:
                metrics[name] = fmean(known)
        elif "/" in name and isinstance(column[-1], int | float):
            metrics[name] = column[-1]
    metrics |= scores | {"score/mean": fmean(scores.values())}
    if seconds:
        metrics["children_per_minute"] = 60 * len(columns["generation"]) / seconds
    return metrics


def _comparison(run: pathlib.Path) -> dict[str, float]:
    """Mean scores of the compared models, by split, model and task."""
    facts = read_facts(run)
    names = {model.name: model.scored_as for model in facts.models}
    found = read_scores(run, {*names, *names.values()})
    metrics = {}
    for model, scored_as in names.items():
        splits = {**found.get(scored_as, {}), **found.get(model, {})}
        for split, tasks in splits.items():
            means = {task: fmean(scores.values()) for task, scores in tasks.items()}
            for task, mean in {**means, "mean": fmean(means.values())}.items():
                metrics[f"{split}/{model}/{task}"] = mean
    return metrics


def _line(err: Exception) -> str:
    return " ".join(str(err).split())[:200] or "no reason given"
