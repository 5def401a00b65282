"""Progress of a long computation, and the observers that hear of it."""

from collections.abc import Mapping
from typing import NamedTuple

SEARCHING = "searching"  # the phase in which candidates are evaluated


class Usage(NamedTuple):
    """The use of a batch's wall time, and the speed of the engine.

    Attributes:
      prefill_rate: prompt tokens computed per second of prefill.
      decode_rate: tokens produced per second of decoding.
      occupancy: share of slots that were busy in decode calls, 0-1.
      device: share of the wall time in device calls, 0-1.
      sandbox: share spent waiting for programs with nothing to compute, 0-1.
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
      generation: the last generation of the batch.
      num_generations: of the whole run.
      best: best score so far, by task.
      coverage: share of an archive's cells that hold an elite, by task; empty for a
        search without archives.
      seconds: wall time of the batch.
      children: their number.
      usage: of the wall time; None for an evaluator without an engine.
    """

    generation: int
    num_generations: int
    best: Mapping[str, float]
    coverage: Mapping[str, float]
    seconds: float
    children: int
    usage: Usage | None = None


class Observer:
    """Hears of progress and ignores it; subclasses override what they show."""

    def note(self, text: str) -> None:
        """Hears one sentence for the reader."""

    def phase(self, name: str) -> None:
        """Hears that a step of the work begins."""

    def episodes(self, done: int, total: int) -> None:
        """Hears how many episodes of the present phase or batch are done."""

    def parameters(self, done: int, total: int) -> None:
        """Hears how many parameters of the basis are computed and stored."""

    def batch(self, summary: BatchSummary) -> None:
        """Hears that a batch was told to the search and saved."""

    def compared(self, generation: int) -> None:
        """Hears that all models were compared, after `generation` children."""


class Observers(Observer):
    """Tells several observers, in this order."""

    def __init__(self, *observers: Observer):
        self._observers = observers

    def note(self, text: str) -> None:
        """Passes it on to all."""
        for observer in self._observers:
            observer.note(text)

    def phase(self, name: str) -> None:
        """Passes it on to all."""
        for observer in self._observers:
            observer.phase(name)

    def episodes(self, done: int, total: int) -> None:
        """Passes it on to all."""
        for observer in self._observers:
            observer.episodes(done, total)

    def parameters(self, done: int, total: int) -> None:
        """Passes it on to all."""
        for observer in self._observers:
            observer.parameters(done, total)

    def batch(self, summary: BatchSummary) -> None:
        """Passes it on to all."""
        for observer in self._observers:
            observer.batch(summary)

    def compared(self, generation: int) -> None:
        """Passes it on to all."""
        for observer in self._observers:
            observer.compared(generation)
