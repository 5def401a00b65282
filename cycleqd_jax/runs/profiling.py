"""A profiler trace of the first batch of children."""

import contextlib
from collections.abc import Iterator

import jax

from cycleqd_jax.progress import SEARCHING, BatchSummary, Observer


class FirstBatch(Observer):
    """Traces from the beginning of the search to the end of its first batch."""

    def __init__(self, inner: Observer, folder: str):
        self._inner = inner
        self._folder = folder
        self._is_running = self._is_done = False

    def note(self, text: str) -> None:
        """Hands it on."""
        self._inner.note(text)

    def phase(self, name: str) -> None:
        """Hands it on; the search starts the trace."""
        self._inner.phase(name)
        if name == SEARCHING and not self._is_done:
            jax.profiler.start_trace(self._folder)
            self._is_running = True

    def episodes(self, done: int, total: int) -> None:
        """Hands it on."""
        self._inner.episodes(done, total)

    def batch(self, summary: BatchSummary) -> None:
        """Hands it on; the first batch ends the trace."""
        self._inner.batch(summary)
        self.stop()

    def compared(self, generation: int) -> None:
        """Hands it on."""
        self._inner.compared(generation)

    def stop(self) -> None:
        """Writes the trace, if one is running."""
        if self._is_running:
            self._is_running, self._is_done = False, True
            jax.profiler.stop_trace()
            self._inner.note(f"profiler trace of this batch: {self._folder}")


@contextlib.contextmanager
def profiling(observer: Observer, folder: str | None) -> Iterator[Observer]:
    """An observer that also traces the first batch into `folder`, if there is one."""
    if folder is None:
        yield observer
        return
    traced = FirstBatch(observer, folder)
    try:
        yield traced
    finally:
        traced.stop()
