"""What a long computation tells whoever watches; every method may be left out."""

from collections.abc import Mapping
from typing import NamedTuple


class Usage(NamedTuple):
    """Where the time of a batch went, and what the engine made of it.

    Attributes:
      prefill_rate: prompt tokens computed per second of prefill.
      decode_rate: tokens produced per second of decoding.
      occupancy: share of slots that were busy in decode calls, 0-1.
      device: share of the wall time in device calls, 0-1.
      sandbox: share in which there was nothing to compute while programs ran, 0-1.
      python: the rest, 0-1.
    """

    prefill_rate: float
    decode_rate: float
    occupancy: float
    device: float
    sandbox: float
    python: float


class BatchSummary(NamedTuple):
    """One batch of children.

    Attributes:
      generation: the last generation that is done.
      num_generations: of the whole run.
      best: highest quality of each archive, by task.
      coverage: share of its cells that hold an elite, by task.
      seconds: wall time of the batch.
      children: how many there were in it.
      usage: of its wall time, or None.
    """

    generation: int
    num_generations: int
    best: Mapping[str, float]
    coverage: Mapping[str, float]
    seconds: float
    children: int
    usage: Usage | None = None


class Observer:
    """Hears of progress and does nothing with it; subclasses show it."""

    def note(self, text: str) -> None:
        """One sentence for the reader."""

    def phase(self, name: str) -> None:
        """A step of the work begins."""

    def episodes(self, done: int, total: int) -> None:
        """How many episodes of the present phase or batch are done."""

    def batch(self, summary: BatchSummary) -> None:
        """A batch was told to the archives and checkpointed."""

    def compared(self, generation: int) -> None:
        """All models were compared, after so many children; the scores are kept."""


class Observers(Observer):
    """Tells several observers, in this order."""

    def __init__(self, *observers: Observer):
        self._observers = observers

    def note(self, text: str) -> None:
        """Passed on to all."""
        for observer in self._observers:
            observer.note(text)

    def phase(self, name: str) -> None:
        """Passed on to all."""
        for observer in self._observers:
            observer.phase(name)

    def episodes(self, done: int, total: int) -> None:
        """Passed on to all."""
        for observer in self._observers:
            observer.episodes(done, total)

    def batch(self, summary: BatchSummary) -> None:
        """Passed on to all."""
        for observer in self._observers:
            observer.batch(summary)

    def compared(self, generation: int) -> None:
        """Passed on to all."""
        for observer in self._observers:
            observer.compared(generation)
