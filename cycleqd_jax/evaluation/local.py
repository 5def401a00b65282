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

from cycleqd_jax.chat import DEFAULT_CHAT, Chat, ChatOptions, Finish, Message, Reply
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
from cycleqd_jax.evaluation.gradients import answer_gradients
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.evaluation.texts import text_scores
from cycleqd_jax.inference.requests import Limits, NotFiniteError, Sampling
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


Job = Callable[[_Case], Coroutine[Any, Any, Any]]


class LocalEvaluator:
    """Runs episodes on this machine; use it as a context manager.

    Attributes:
      tasks: in the order of the archives.
    """

    def __init__(
        self, loader: IndividualLoader, *, tasks: Sequence[Task], sandbox: Sandbox
    ):
        """Creates an evaluator; `__exit__` closes its sandbox and tasks.

        Args:
          loader: loads individuals into its engine, which generates the replies.
          tasks: in the order of the archives.
          sandbox: runs programs; closed with the evaluator.
        """
        self.tasks = tuple(tasks)
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
            for task in self.tasks:
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
        found = self._run(individuals, split, problems, progress, self._episode)
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
        found = self._run(individuals, split, problems, progress, self._reference_score)
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
        chosen = select_problems(self.tasks, split, problems)
        total, done = len(individuals) * len(chosen), 0

        async def counted(case: _Case) -> Any:
            nonlocal done
            result = await job(case)
            done += 1
            if progress is not None:
                progress(done, total)
            return result

        def jobs(name: str, row: int) -> Iterator[Coroutine]:
            # In the order of tasks: replies of one task have similar lengths, so slots
            # become free together, and few idle at the end.
            for priority, (task, problem) in enumerate(chosen):
                yield counted(_Case(name, row, split, task, problem, priority))

        found = self._runner.run(self._loader.run(individuals, jobs))
        done_jobs = [result for rows in found for result in rows]
        # Not the engine's counters: those have failed attempts and tokens after a stop
        # string in them, so they are not the same whenever a run is repeated.
        forward = sum(tokens for _, tokens in done_jobs)
        seconds, used = time.perf_counter() - start, self.stats.since(before)
        return [result for result, _ in done_jobs], Cost(forward, 0, seconds, used)

    def _conversation(
        self, case: _Case
    ) -> contextlib.AbstractContextManager[Conversation]:
        return self._engine.conversation(case.row, priority=case.priority)

    async def _episode(self, case: _Case) -> tuple[Episode, int]:
        """Runs one episode; the second result is its tokens through the model."""
        with self._conversation(case) as turns:
            return await self._play(case, turns)

    async def _reference_score(self, case: _Case) -> tuple[ReferenceScore, int]:
        """Scores the reference dialogue of one problem; also its tokens computed."""
        with self._conversation(case) as turns:
            return await self._score_reference(case, turns)

    async def _both(
        self, case: _Case
    ) -> tuple[tuple[Episode, ReferenceScore, int], int]:
        """Both in one conversation, whose cache holds the prompt; also their tokens."""
        with self._conversation(case) as turns:
            episode, computed = await self._play(case, turns)
            scored, more = await self._score_reference(case, turns)
        return (episode, scored, more), computed

    async def _play(self, case: _Case, turns: Conversation) -> tuple[Episode, int]:
        replies: list[Reply] = []
        computed: list[int] = []
        start, task, problem = time.perf_counter(), case.task, case.problem

        async def chat(
            messages: Sequence[Message], options: ChatOptions = DEFAULT_CHAT
        ) -> Reply:
            reply, tokens = await self._reply(
                messages, options, turns, task.max_new_tokens
            )
            replies.append(reply)
            computed.append(tokens)
            return reply

        def new_chat() -> Chat:
            # A retried episode keeps nothing of the failed attempt.
            replies.clear()
            computed.clear()
            return chat

        with _naming(case):
            result = await run_episode(task, problem, new_chat, self._sandbox)
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
        return episode, sum(computed)

    async def _reply(
        self,
        messages: Sequence[Message],
        options: ChatOptions,
        conversation: Conversation,
        limit: int,
    ) -> tuple[Reply, int]:
        """Generates the next reply; the second result is the tokens it computed.

        Those are the prompt's, less what the cache had, and the reply's. A prompt that
        fills the engine's length gets an empty reply, which ends by LENGTH.
        """
        prompt = self._engine.encode(messages, options.template)
        if len(prompt) >= self._engine.settings.length:
            return Reply("", (), len(prompt), Finish.LENGTH), 0
        sampling = Sampling(options.temperature, top_p=options.top_p, seed=options.seed)
        got = await self._engine.generate(
            prompt,
            Limits(limit, options.stop_strings),
            sampling=sampling,
            conversation=conversation,
        )
        reply = Reply(got.text, got.tokens, got.prompt_tokens, got.finish)
        return reply, got.prompt_tokens - got.reused_tokens + len(got.tokens)

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
