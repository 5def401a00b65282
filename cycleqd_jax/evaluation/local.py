"""The local evaluator: one engine and one sandbox in this process.

Every (individual, problem) pair is one coroutine, and all coroutines run at once: the
engine batches their requests, and the sandbox runs their programs beside it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cycleqd_jax.chat import Reply
from cycleqd_jax.errors import RunError
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
from cycleqd_jax.evaluation.chats import EngineChat
from cycleqd_jax.evaluation.gradients import answer_gradients
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.evaluation.texts import text_scores
from cycleqd_jax.inference.requests import NotFiniteError
from cycleqd_jax.inference.slots import Conversation
from cycleqd_jax.inference.stats import EngineStats
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.models.dialogues import examples_of, turn_end
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.base import Problem, Split, Task, reference, run_episode


class _Case(NamedTuple):
    """One problem for one individual.

    Attributes:
      individual: its name.
      row: its index in the engine's population.
      split: the problem's.
      task: the problem's.
      problem: to be solved or scored.
      priority: index of the problem in the call; the engine serves low ones first.
    """

    individual: str
    row: int
    split: Split
    task: Task
    problem: Problem
    priority: int


@contextlib.contextmanager
def _naming(case: _Case) -> Iterator[None]:
    """Says whose logits are not finite."""
    try:
        yield
    except NotFiniteError as err:
        raise RunError(f"{case.individual} on {case.problem.id}: {err}.") from err


# Does its work in a conversation; the second result is the tokens it computed.
Job = Callable[[_Case, Conversation], Coroutine[Any, Any, tuple[Any, int]]]
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
        sandbox: Sandbox,
        further: Sequence[Task] = (),
    ):
        """Creates an evaluator; `__exit__` closes its sandbox and tasks.

        Args:
          loader: loads individuals into its engine, which generates the replies.
          tasks: in the order of the archives.
          sandbox: runs programs; closed with the evaluator.
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

        async def played(cases: Sequence[_Case]) -> list[tuple[Any, int]]:
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
                yield played([_Case(name, row, split, *one) for one in run])

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
        self, case: _Case, turns: Conversation
    ) -> tuple[tuple[Episode, ReferenceScore, int], int]:
        """Both in one conversation, whose cache holds the prompt; also their tokens."""
        episode, computed = await self._play(case, turns)
        scored, more = await self._score_reference(case, turns)
        return (episode, scored, more), computed

    async def _play(self, case: _Case, turns: Conversation) -> tuple[Episode, int]:
        start, task, problem = time.perf_counter(), case.task, case.problem
        chat = EngineChat(self._engine, turns, task.max_new_tokens)
        with _naming(case):
            result = await run_episode(task, problem, chat.afresh, self._sandbox)
        replies = chat.replies
        last = replies[-1] if replies else Reply("")
        episode = Episode(
            individual=case.individual,
            split=str(case.split),
            task=task.name,
            problem=problem.id,
            outcome=str(result.outcome),
            score=result.score,
            answer=result.answer,
            reply=last.text,
            explanation=result.explanation,
            turns=result.turns,
            prompt_tokens=last.prompt_tokens,
            tokens=tuple(token for reply in replies for token in reply.tokens),
            finish=str(last.finish),
            replies=tuple(reply.text for reply in replies),
            metrics=dict(result.metrics),
            seconds=time.perf_counter() - start,
        )
        return episode, chat.computed

    async def _score_reference(
        self, case: _Case, turns: Conversation
    ) -> tuple[ReferenceScore, int]:
        where = dict(
            individual=case.individual,
            split=str(case.split),
            task=case.task.name,
            problem=case.problem.id,
        )
        dialogue = reference(case.task, case.problem)
        if dialogue is None:
            return ReferenceScore(**where, logprob=None, tokens=0), 0
        tokenizer = self._engine.tokenizer
        logprob, tokens, computed = 0.0, 0, 0
        for example in examples_of(dialogue, tokenizer, turn_end(tokenizer)):
            start = example.learnt[0]
            with _naming(case):
                got = await self._engine.score(
                    example.tokens, start, conversation=turns
                )
            logprob += sum(got.logprobs[i - start] for i in example.learnt)
            tokens += len(example.learnt)
            # The last token is only a target.
            computed += len(example.tokens) - 1 - got.reused_tokens
        return ReferenceScore(**where, logprob=logprob, tokens=tokens), computed
