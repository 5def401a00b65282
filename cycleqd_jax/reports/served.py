"""The explorer's page and data as a server gives them, of a run that may go on."""

import pathlib
import threading
from typing import Any

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.reports import build, explorer, page, replies, run_data
from cycleqd_jax.reports.population import Population, read_population
from cycleqd_jax.reports.questions import Questions
from cycleqd_jax.reports.shares import read_shares
from cycleqd_jax.reports.shell import make_shell
from cycleqd_jax.runs.facts import NAME
from cycleqd_jax.runs.opened import OpenedRun, open_run

ADDRESSES = {
    "data": "explore/data",
    "replies": "explore/replies",
    "question": "explore/question",
    "chat": "v1/chat/completions",
}


class ServedRun:
    """A run folder that is read again when it has changed; safe in several threads.

    Nothing in the folder is changed.
    """

    def __init__(self, opened: OpenedRun, look_again_ms: int = 10_000):
        """Takes a run.

        Args:
          opened: finished or in progress.
          look_again_ms: the time after which a page of a run in progress asks again.
        """
        self._opened, self._look_again_ms = opened, look_again_ms
        self._questions = Questions(opened)
        self._version: Any = None
        self._lock = threading.Lock()

    def page(self) -> str:
        """The page: of a finished run with its report, else the explorer alone.

        Raises:
          BadInputError: the run has no results yet, or a file is damaged.
        """
        with self._lock:
            self._read()
            if self._page is None:
                self._page = self._make_page()
            return self._page

    def data(self) -> str:
        """JSON of the explorer's data; errors as for `page`."""
        with self._lock:
            self._read()
            return explorer.to_json(self._data)

    def replies(self, individual: str) -> dict[str, Any]:
        """All replies of one individual, see `replies.replies_of`.

        Raises:
          BadInputError: there is no such individual, or as for `page`.
        """
        with self._lock:
            self._read()
            population = self._population
        if individual not in {*population.names, *population.others}:
            raise BadInputError(f"{individual!r} is no individual of this run.")
        return replies.replies_of(population, individual)

    def question(self, task: str, problem: str) -> dict[str, str]:
        """The question of one problem, see `replies.question_of`.

        Raises:
          BadInputError: the run has no such task.
        """
        if task not in self._opened.tasks:
            raise BadInputError(f"{task!r} is no task of this run.")
        with self._lock:
            return replies.question_of(self._questions, task, problem)

    def _read(self) -> None:
        """Reads the run unless it is as it was."""
        run = self._opened.path
        version = (_listing(run), (run / NAME).exists())
        if version == self._version:
            return
        opened = open_run(run)
        self._population: Population = read_population(opened)
        self._data = explorer.explorer_data(
            self._population, read_shares(opened), self._questions
        )
        self._page: str | None = None
        self._version = version

    def _make_page(self) -> str:
        opened, run = self._population.opened, self._opened.path
        server = ADDRESSES | {
            "run": str(run),
            "look_again_ms": self._look_again_ms,
        }
        if opened.facts is None:
            title = f"{len(opened.tasks)} skills, search in progress"
            return make_shell(self._data, title=title, server=server)
        data = run_data.read_run(run)
        report = build.numbers(data, self._population)
        figures, split = build.draw(data, report, run), build.main_split(report)
        return page.make_page(
            data, report, figures, split, self._data, self._questions, server
        )


def _listing(run: pathlib.Path) -> tuple[str, ...]:
    """Names of the parts and checkpoints that the page rests on."""
    found = ("metrics/*.parquet", "results/*.parquet", "checkpoints/*")
    return tuple(sorted(str(path) for some in found for path in run.glob(some)))
