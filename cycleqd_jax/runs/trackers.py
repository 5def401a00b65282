"""Where metrics go beside the tables of a run: TensorBoard and Weights & Biases.

Both are extras. They are for watching: nothing is ever read back from them, and where
one fails, it is left out and the work goes on.
"""

import contextlib
import importlib.util
import pathlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError

Metrics = Mapping[str, float]
_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
# How long Weights & Biases may hold up the start and the end, in seconds.
_START_S, _END_S = 60, 120


class MetricsLogger(Protocol):
    """Shows metrics to people."""

    def log(self, metrics: Metrics, step: int) -> None:
        """Takes what was measured at a step; steps come in rising order."""

    def result(self, metrics: Metrics, step: int) -> None:
        """Takes what it all came to, after the last step; may come again."""

    def close(self, *, failed: bool = False) -> None:
        """Lets everything reach its place; nothing is logged afterwards."""


class TensorBoardLogger:
    """Event files in `<folder>/tensorboard`.

    They are made anew at every start: whoever goes on with a run logs its steps again
    from the first. So there is always one file, and no step is in it twice.
    """

    def __init__(self, folder: pathlib.Path):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        self._events, self._summaries = event_pb2, summary_pb2
        target = folder / "tensorboard"
        target.mkdir(parents=True, exist_ok=True)
        for old in target.glob("events.out.tfevents.*"):
            old.unlink()
        # Not `SummaryWriter`: its thread dies of a full disk and then blocks callers.
        self._writer = EventsWriter(str(target / "events"))
        # A TensorBoard that watched the old file forgets what it read there.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(step=0, session_log=start)

    def log(self, metrics: Metrics, step: int) -> None:
        """One scalar per metric."""
        value = self._summaries.Summary.Value
        values = [value(tag=tag, simple_value=x) for tag, x in metrics.items()]
        self._write(step=step, summary=self._summaries.Summary(value=values))

    def result(self, metrics: Metrics, step: int) -> None:
        """As `log`."""
        self.log(metrics, step)

    def close(self, *, failed: bool = False) -> None:
        """Closes the file."""
        self._writer.close()

    def _write(self, **content: Any) -> None:
        event = self._events.Event(wall_time=time.time(), **content)
        try:
            self._writer.write_event(event)
            self._writer.flush()
        except OSError:
            with contextlib.suppress(OSError):
                self._writer.close()
            raise


class WandbLogger:
    """One run of Weights & Biases per folder, however often it is gone on with.

    The run's id and the last step that was logged are kept in
    `<folder>/wandb/cycleqd_jax.json`, so steps are not logged twice; only a step in
    which the process was killed may be, with the same values. `WANDB_MODE=offline` and
    the other settings of wandb's own hold.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        project: str,
        settings: Mapping[str, Any],
        note: Callable[[str], None],
    ):
        import wandb

        self._path = folder / "wandb" / "cycleqd_jax.json"
        self._state = {"id": secrets.token_hex(4), "logged": -1}
        if self._path.is_file():
            self._state |= files.read_json(self._path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                project=project,
                name=folder.resolve().name,
                dir=str(folder),
                id=self._state["id"],
                resume="allow",
                config=dict(settings),
                allow_val_change=True,
                settings=wandb.Settings(
                    console="off",
                    silent=True,
                    disable_git=True,
                    disable_code=True,
                    init_timeout=_START_S,
                    finish_timeout=_END_S,
                ),
            )
        except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as err:
            raise BadInputError(
                f"logging.to names wandb, but Weights & Biases refuses: {_line(err)} "
                "Log in with `wandb login`, or set WANDB_MODE=offline."
            ) from err
        # Steps are a metric: wandb's own may only rise, also over a killed process.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        files.write_json(self._path, self._state)
        if self._run.offline:
            note(
                "Weights & Biases is offline; send its files later with: wandb sync "
                f"{folder / 'wandb'}/offline-run-*"
            )
        elif self._run.url:
            note(f"Weights & Biases shows this run at {self._run.url}")

    def log(self, metrics: Metrics, step: int) -> None:
        """One row of history, unless the run has this step already."""
        if step <= self._state["logged"]:
            return
        self._run.log({**metrics, "step": step})
        self._state["logged"] = step
        files.write_json(self._path, self._state)

    def result(self, metrics: Metrics, step: int) -> None:
        """The run's summary."""
        self._run.summary.update(dict(metrics))

    def close(self, *, failed: bool = False) -> None:
        """Ends the run; waits at most two minutes for what is still to be sent."""
        self._run.finish(exit_code=int(failed))


class Loggers:
    """Several loggers as one; one that fails is left out, with a note."""

    def __init__(self, note: Callable[[str], None]):
        self._note = note
        self._loggers: dict[str, MetricsLogger] = {}

    def open(self, name: str, make: Callable[[], MetricsLogger]) -> None:
        """Adds a logger.

        Raises:
          BadInputError: it needs something from the user first.
        """
        try:
            self._loggers[name] = make()
        except BadInputError:
            raise
        except Exception as err:  # noqa: BLE001 - whatever it is, the work goes on
            self._drop(name, err)

    def log(self, metrics: Metrics, step: int) -> None:
        """Tells all loggers."""
        self._each(lambda logger: logger.log(metrics, step))

    def result(self, metrics: Metrics, step: int) -> None:
        """Tells all loggers."""
        self._each(lambda logger: logger.result(metrics, step))

    def close(self, *, failed: bool = False) -> None:
        """Closes all loggers."""
        self._each(lambda logger: logger.close(failed=failed))
        self._loggers = {}

    def _each(self, call: Callable[[MetricsLogger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                call(logger)
            except Exception as err:  # noqa: BLE001 - whatever it is, the work goes on
                self._drop(name, err)

    def _drop(self, name: str, err: Exception) -> None:
        self._loggers.pop(name, None)
        self._note(
            f"Nothing more is logged to {name} ({type(err).__name__}: {_line(err)}); "
            "the work goes on."
        )


def check_logging(to: Sequence[str]) -> None:
    """Looks whether the packages are there, before work starts.

    Args:
      to: "tensorboard", "wandb".

    Raises:
      BadInputError: one is not; with the command that installs it.
    """
    for name in to:
        spec = importlib.util.find_spec(_PACKAGES[name])
        # A folder of that name in the working directory has no origin.
        if spec is None or spec.origin is None:
            raise BadInputError(
                f"logging.to names {name}, but the Python package {_PACKAGES[name]} is "
                f"not installed; type: pip install {_PACKAGES[name]}"
            )


@contextlib.contextmanager
def open_loggers(
    to: Sequence[str],
    folder: pathlib.Path,
    *,
    project: str,
    settings: Mapping[str, Any],
    note: Callable[[str], None],
) -> Iterator[MetricsLogger]:
    """Opens loggers, and closes them at the end.

    Args:
      to: "tensorboard", "wandb"; may be empty.
      folder: of the run or training; what they write is in it.
      project: of Weights & Biases.
      settings: the resolved config, shown beside the metrics.
      note: takes a sentence for the reader.

    Raises:
      BadInputError: a package is missing, or Weights & Biases wants a log-in.
    """
    check_logging(to)
    loggers = Loggers(note)
    makers = {
        "tensorboard": lambda: TensorBoardLogger(folder),
        "wandb": lambda: WandbLogger(
            folder, project=project, settings=settings, note=note
        ),
    }
    done = False
    try:
        for name in to:
            loggers.open(name, makers[name])
        yield loggers
        done = True
    finally:
        loggers.close(failed=not done)


def _line(err: Exception) -> str:
    return " ".join(str(err).split())[:200] or "no reason given"
