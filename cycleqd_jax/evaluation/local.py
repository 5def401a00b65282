"""The local evaluator: one engine and one sandbox in this process.

Every (individual, problem) pair is one coroutine, and all coroutines run at once: the
engine batches their requests, and the sandbox runs their programs beside it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cycleqd_jax.evaluation.base import (
    Cost,
    Episode,
    Evaluation,
    Gradients,
    ProblemIds,
    Progress,
    ReferenceScore,
    Replies,
    Scoring,
    select_problems,
)
from cycleqd_jax.evaluation.cases import Case, play, score_reference
from cycleqd_jax.evaluation.gradients import answer_gradients
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.evaluation.texts import text_scores
from cycleqd_jax.inference.slots import Conversation
from cycleqd_jax.inference.stats import EngineStats
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.base import Problem, Split, Task

# Does a case in a conversation. Returns its result, and the tokens it computed.
Job = Callable[[Case, Conversation], Coroutine[Any, Any, tuple[Any, int]]]
_LONGEST_RUN = 64  # problems of one conversation; more would leave slots idle


class LocalEvaluator:
    """Runs episodes on this machine; use it as a context manager.

    Attributes:
      tasks: in the order of the archives.
      further: tasks that the search does not see.
    """

    def __init__(
        self,
        loader: IndividualLoader,
        *,
        tasks: Sequence[Task],
        sandbox: Sandbox | None = None,
        further: Sequence[Task] = (),
    ):
        """Creates an evaluator; `__exit__` closes its sandbox and tasks.

        Args:
          loader: loads individuals into its engine, which generates the replies.
          tasks: in the order of the archives.
          sandbox: runs programs, if a task has any; closed with the evaluator.
          further: tasks that the search does not see.
        """
        self.tasks, self.further = tuple(tasks), tuple(further)
        self._loader = loader
        self._engine = loader.engine
        self._sandbox = sandbox
        self._runner = asyncio.Runner()

    def __enter__(self) -> "LocalEvaluator":
        self._runner.__enter__()
        return self

    def __exit__(self, *error) -> None:
        try:
            self._runner.run(self._close())
        finally:
            self._runner.__exit__(*error)

    async def _close(self) -> None:
        """Closes every task that has an `aclose` method, then the sandbox."""
        async with contextlib.AsyncExitStack() as stack:
            if self._sandbox is not None:
                stack.push_async_callback(self._sandbox.close)
            for task in (*self.tasks, *self.further):
                if hasattr(task, "aclose"):
                    stack.push_async_callback(task.aclose)

    @property
    def stats(self) -> EngineStats:
        """Counters of the engine since it was made."""
        return self._engine.stats

    def compile(self, progress: Callable[[str], None] | None = None) -> None:
        """Compiles the engine's programs, so that the first episodes do not wait.

        Args:
          progress: is told of each program.
        """
        self._loader.compile(progress)

    def evaluate(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        *,
        problems: ProblemIds | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Runs one episode per individual and problem; see `Evaluator.evaluate`."""
        found = self._run(individuals, split, problems, progress, self._play)
        return Evaluation(*found)

    def score(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        *,
        problems: ProblemIds | None = None,
        progress: Progress | None = None,
    ) -> Scoring:
        """Log-probabilities of reference answers; see `Evaluator.score`.

        Sums over the tokens that training puts a loss on: every assistant message of
        the reference dialogue and its end-of-turn token.

        Raises:
          RequestError: a reference dialogue is longer than the engine's length.
        """
        found = self._run(individuals, split, problems, progress, self._score_reference)
        return Scoring(*found)

    def evaluate_and_score(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        *,
        problems: ProblemIds | None = None,
        progress: Progress | None = None,
    ) -> tuple[Evaluation, Scoring]:
        """Episodes and log-probabilities; see `Evaluator.evaluate_and_score`."""
        rows, cost = self._run(individuals, split, problems, progress, self._both)
        episodes, scores, computed = zip(*rows, strict=True) if rows else ((), (), ())
        own = Cost(sum(computed), 0, 0.0, EngineStats())
        return Evaluation(list(episodes), cost), Scoring(list(scores), own)

    def score_texts(
        self,
        individuals: Mapping[str, Individual],
        texts: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> Scoring:
        """Log-probabilities of plain texts, without a chat template.

        Args:
          individuals: by name.
          texts: number i is the problem "text/<i>" of the task "text" in the result.
          progress: called after each text.

        Returns:
          Scores in the order of individuals, then of texts.

        Raises:
          RequestError: a text is longer than the engine's length.
        """
        start, before = time.perf_counter(), self.stats.copy()
        found = self._runner.run(
            text_scores(self._loader, individuals, texts, progress)
        )
        scores = [score for own in found for score in own]
        forward = sum(score.tokens for score in scores)
        seconds, used = time.perf_counter() - start, self.stats.since(before)
        return Scoring(scores, Cost(forward, 0, seconds, used))

    def gradient(
        self,
        genomes: Sequence[Genome],
        task_weights: np.ndarray,
        split: Split,
        *,
        problems: Sequence[ProblemIds],
        replies: Replies | None = None,
    ) -> Gradients:
        """Gradients by coefficients; see `answer_gradients`."""
        return answer_gradients(
            self._loader, self.tasks, genomes, task_weights, split, problems, replies
        )

    def _run(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        problems: ProblemIds | None,
        progress: Progress | None,
        job: Job,
    ) -> tuple[list[Any], Cost]:
        """One job per individual and problem; their results in order, and the cost."""
        start, before = time.perf_counter(), self.stats.copy()
        chosen = select_problems(self.tasks, split, problems, self.further)
        total, done = len(individuals) * len(chosen), 0

        async def played(cases: Sequence[Case]) -> list[tuple[Any, int]]:
            nonlocal done
            results, first = [], cases[0]
            with self._engine.conversation(first.row, priority=first.priority) as turns:
                for case in cases:
                    results.append(await job(case, turns))
                    done += 1
                    if progress is not None:
                        progress(done, total)
            return results

        runs = self._runs(chosen, total)

        def jobs(name: str, row: int) -> Iterator[Coroutine]:
            for run in runs:
                yield played([Case(name, row, split, *one) for one in run])

        found = self._runner.run(self._loader.run(individuals, jobs))
        done_jobs = [result for runs in found for run in runs for result in run]
        # Not the engine's counters: those have failed attempts and tokens after a stop
        # string in them, so they are not the same whenever a run is repeated.
        forward = sum(tokens for _, tokens in done_jobs)
        seconds, used = time.perf_counter() - start, self.stats.since(before)
        return [result for result, _ in done_jobs], Cost(forward, 0, seconds, used)

    def _runs(
        self, chosen: Sequence[tuple[Task, Problem]], total: int
    ) -> list[list[tuple[Task, Problem, int]]]:
        """The problems, with their priorities, that are played in one conversation.

        Priorities are in the order of tasks: replies of one task have similar lengths,
        so slots become free together, and few idle at the end.
        """
        settings, runs = self._engine.settings, []
        # A deterministic engine does not let bits depend on other problems.
        most = (
            1 if settings.deterministic else min(total // settings.slots, _LONGEST_RUN)
        )
        for priority, (task, problem) in enumerate(chosen):
            shares = getattr(task, "shares_prompts", False)
            if not runs or not shares or runs[-1][-1][0] is not task:
                runs.append([])
            elif len(runs[-1]) >= most:
                runs.append([])
            runs[-1].append((task, problem, priority))
        return runs

    async def _both(
        self, case: Case, turns: Conversation
    ) -> tuple[tuple[Episode, ReferenceScore, int], int]:
        """Both in one conversation, whose cache holds the prompt; also their tokens."""
        episode, computed = await self._play(case, turns)
        scored, more = await self._score_reference(case, turns)
        return (episode, scored, more), computed

    async def _play(self, case: Case, turns: Conversation) -> tuple[Episode, int]:
        return await play(case, turns, self._engine, self._sandbox)

    async def _score_reference(
        self, case: Case, turns: Conversation
    ) -> tuple[ReferenceScore, int]:
        return await score_reference(case, turns, self._engine)
