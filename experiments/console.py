"""What the commands share: exit codes, progress on the terminal, the compile cache."""

import os
import pathlib
import sys
import time
from collections.abc import Callable

import jax
import rich.console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cycleqd_jax.errors import BadInputError, CycleQDError
from cycleqd_jax.observe import BatchSummary, Observer

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def set_up_process() -> None:
    """Keeps compiled programs between runs, outside the repository; quiets advice."""
    # Without PyTorch, which is not needed, transformers says so at every start.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        folder = pathlib.Path(cache) / "cycleqd_jax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(folder))


def guarded(command: Callable[[], int], *, interrupted: str) -> int:
    """Runs a command; says in one sentence what went wrong, and returns the exit code.

    Args:
      command: returns an exit code.
      interrupted: what to say after Ctrl-C.
    """
    errors = rich.console.Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        return command()
    except KeyboardInterrupt:
        errors.print(f"\nInterrupted. {interrupted}", markup=False)
        return INTERRUPTED
    except BadInputError as err:
        errors.print(f"Bad input: {err}", markup=False)
        return BAD_INPUT
    except (CycleQDError, OSError) as err:
        errors.print(f"Failed: {err}", markup=False)
        errors.print(interrupted, markup=False)
        return FAILED


class ConsoleObserver(Observer):
    """Progress bars on a terminal, plain lines elsewhere."""

    def __init__(self, stream=None):
        self._console = rich.console.Console(
            file=stream or sys.stdout, highlight=False, soft_wrap=True
        )
        self._bars: Progress | None = None
        self._start = time.monotonic()
        self._batch_seconds: list[float] = []

    def __enter__(self) -> "ConsoleObserver":
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bars.start()
            self._children = self._bars.add_task("children", total=None, visible=False)
            self._episodes = self._bars.add_task("episodes", total=None, visible=False)
        return self

    def __exit__(self, *error) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _line(self, text: str) -> None:
        elapsed = time.monotonic() - self._start
        self._console.print(
            f"[{int(elapsed // 60):3d}:{elapsed % 60:04.1f}] {text}", markup=False
        )

    def note(self, text: str) -> None:
        """One line."""
        self._line(text)

    def phase(self, name: str) -> None:
        """One line, and a bar for its episodes."""
        self._line(name)
        if self._bars is not None:
            self._bars.reset(self._episodes, total=None, visible=False)

    def episodes(self, done: int, total: int) -> None:
        """Moves the bar; plain output is not told of single episodes."""
        if self._bars is not None:
            self._bars.update(
                self._episodes, completed=done, total=total, visible=done < total
            )

    def batch(self, summary: BatchSummary) -> None:
        """One line per batch: best per skill, children per minute, time left."""
        self._batch_seconds.append(summary.seconds)
        recent = self._batch_seconds[-5:]
        per_minute = 60 * summary.children * len(recent) / sum(recent)
        left = (summary.num_generations - summary.generation) / per_minute
        best = "  ".join(f"{task} {q:.3f}" for task, q in summary.best.items())
        self._line(
            f"child {summary.generation}/{summary.num_generations}  best: {best}  "
            f"{per_minute:.1f} children/min  {left:.1f} min left"
        )
        if self._bars is not None:
            self._bars.update(
                self._children,
                completed=summary.generation,
                total=summary.num_generations,
                visible=summary.generation < summary.num_generations,
            )
