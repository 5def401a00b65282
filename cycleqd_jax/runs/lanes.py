"""Batches of candidates that are evaluated at the same time, in lanes.

With one lane batches come back in the order in which they were begun, and nothing
else runs meanwhile. With several each runs in a thread and comes back when it is done,
so the next is asked from newer archives than a batch that is still running.
"""

import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

from cycleqd_jax.evaluation.base import Cost
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.search.base import Candidates

_MOST = 4096  # lanes; more evaluators work all the same, on parts of batches


class Asked(NamedTuple):
    """A batch of candidates on its way.

    Attributes:
      candidates: as they were asked; their `ts` are the numbers of their random draws.
      known: children that the search had been told by then.
      costs: kind and cost of every request that was answered for them.
    """

    candidates: Candidates
    known: int
    costs: list[tuple[str, Cost]]


class Lanes:
    """Evaluations that are begun and not over; use it as a context manager."""

    def __init__(self):
        self._threads = concurrent.futures.ThreadPoolExecutor(_MOST)
        self._waiting: list[tuple[Asked, Callable[[], Any]]] = []
        self._running: dict[concurrent.futures.Future, Asked] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        # After an error nobody waits for the others; their evaluator ends them.
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def begin(self, asked: Asked, evaluate: Callable[[], Any]) -> None:
        """Adds an evaluation."""
        self._waiting.append((asked, evaluate))

    def next(self) -> tuple[Asked, Any]:
        """The next evaluation that is over and what it gave, or its error.

        A single one runs in the thread of the caller.
        """
        if len(self) == 1 and self._waiting:
            asked, evaluate = self._waiting.pop()
            return asked, evaluate()
        for asked, evaluate in self._waiting:
            self._running[self._threads.submit(evaluate)] = asked
        self._waiting.clear()
        first = concurrent.futures.FIRST_COMPLETED
        done = concurrent.futures.wait(self._running, return_when=first).done
        over = next(future for future in self._running if future in done)
        return self._running.pop(over), over.result()


def untold(folder: RunFolder, num_generations: int) -> Iterator[int]:
    """Numbers of random draws that no child on record has, in order.

    Without lanes child t has number t. With several a run that was killed has some
    numbers out of order, and those of the batches that were lost are free again.

    Args:
      folder: of the run.
      num_generations: the last number.

    Raises:
      BadInputError: metrics are damaged.
    """
    told: set[int] = set()
    for part in folder.batches():
        table = folder.read_part("metrics", part)
        has_numbers = "asked" in table.column_names  # older versions had no lanes
        told.update(table["asked" if has_numbers else "generation"].to_pylist())
    return (number for number in range(1, num_generations + 1) if number not in told)
