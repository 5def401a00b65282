"""Logs a run: whatever the last checkpoint counts, and at the end the comparison.

Metrics are read from the run folder's own tables, and only after the checkpoint that
counts them. So what is logged is kept, also by a run that was killed and goes on.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import CycleQDError
from cycleqd_jax.evaluation.base import mean_scores
from cycleqd_jax.progress import BatchSummary, Observer
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.results import read_episodes
from cycleqd_jax.runs.trackers import MetricsLogger, open_loggers
from cycleqd_jax.tasks.base import Split

# Parts of the results with the models of the comparison.
_COMPARED = {
    Split.OPTIMISE: (
        "experts-optimise",
        "scaled-optimise",
        "best-optimise",
        "final-optimise",
    ),
    Split.TEST: ("baselines-test", "final-test"),
}


class LoggingObserver(Observer):
    """Logs batches and the comparison, and hands everything on to another observer."""

    def __init__(self, inner: Observer, logger: MetricsLogger, folder: RunFolder):
        self._inner = inner
        self._logger = logger
        self._folder = folder
        self._logged = 0  # children, by this process
        self._seconds = _batch_seconds(folder)

    def note(self, text: str) -> None:
        """Handed on."""
        self._inner.note(text)

    def phase(self, name: str) -> None:
        """Handed on."""
        self._inner.phase(name)

    def episodes(self, done: int, total: int) -> None:
        """Handed on."""
        self._inner.episodes(done, total)

    def batch(self, summary: BatchSummary) -> None:
        """Handed on, and logged with all batches before it."""
        self._inner.batch(summary)
        self._seconds[summary.generation] = summary.seconds
        with self._without_harm():
            self._log_batches(summary.generation)

    def compared(self, generation: int) -> None:
        """Handed on, and logged with all batches before it."""
        self._inner.compared(generation)
        with self._without_harm():
            self._log_batches(generation)
            self._logger.result(_comparison(self._folder), generation)

    @contextlib.contextmanager
    def _without_harm(self) -> Iterator[None]:
        try:
            yield
        except (CycleQDError, OSError, ValueError, KeyError) as err:
            self._inner.note(f"Not logged: {err}")

    def _log_batches(self, through: int) -> None:
        """Logs what is kept of the children up to `through` and was not logged yet."""
        for name in self._folder.batches():
            first = int(name.removeprefix("batch-"))
            if not self._logged < first <= through:
                continue
            rows = files.read_table(self._folder.part("metrics", name)).to_pylist()
            step = rows[-1]["generation"]
            self._logger.log(batch_metrics(rows, self._seconds.get(step)), step)
            self._logged = step


def batch_metrics(
    rows: Sequence[Mapping[str, Any]], seconds: float | None
) -> dict[str, float]:
    """The metrics of one batch.

    Args:
      rows: of its table, one per child.
      seconds: its wall time, or None where it is not known.

    Returns:
      `best/`, `coverage/` and `qd_score/` of every task's archive after the batch,
      `score/` of every task, the mean over the children, `score/mean` over all tasks,
      and `children_per_minute`.
    """
    last = rows[-1]
    kinds = ("best/", "coverage/", "qd_score/")
    metrics = {name: last[name] for name in last if name.startswith(kinds)}
    scores = {
        name: math.fsum(row[name] for row in rows) / len(rows)
        for name in last
        if name.startswith("score/")
    }
    metrics |= scores | {"score/mean": math.fsum(scores.values()) / len(scores)}
    if seconds:
        metrics["children_per_minute"] = 60 * len(rows) / seconds
    return metrics


@contextlib.contextmanager
def log_run(
    config: RunConfig, folder: RunFolder, observer: Observer
) -> Iterator[Observer]:
    """The observer that logs as the config says; `observer` itself where it does not.

    Raises:
      BadInputError: see `logs.open_loggers`.
    """
    if not config.logging.to:
        yield observer
        return
    with open_loggers(
        config.logging.to,
        folder.path,
        project=config.logging.project,
        settings=config.model_dump(mode="json"),
        note=observer.note,
    ) as logger:
        yield LoggingObserver(observer, logger, folder)


def _comparison(folder: RunFolder) -> dict[str, float]:
    """Scores of the compared models: `test/aggregated/mean` and the like."""
    metrics = {}
    for split, parts in _COMPARED.items():
        episodes = [e for part in parts for e in read_episodes(folder, part) or ()]
        for model, by_task in sorted(mean_scores(episodes).items()):
            mean = math.fsum(by_task.values()) / len(by_task)
            for task, score in {**by_task, "mean": mean}.items():
                metrics[f"{split}/{model}/{task}"] = score
    return metrics


def _batch_seconds(folder: RunFolder) -> dict[int, float]:
    """Wall times of earlier batches, by their last generation."""
    path = folder.path / "timing.jsonl"
    if not path.is_file():
        return {}
    seconds = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        # The last line of a process that was killed may be cut short.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            if row["phase"] == "batch":
                seconds[int(row["generation"])] = float(row["seconds"])
    return seconds
