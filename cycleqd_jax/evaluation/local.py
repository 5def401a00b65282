"""Scores of individuals on tasks; the only place where engine and tasks meet.

Every (individual, task, problem) is one coroutine, and all of them run at once: the
engine batches what they ask, the sandbox runs their programs beside it.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from cycleqd_jax.chat import DEFAULT_CHAT, ChatOptions, Finish, Message, Reply
from cycleqd_jax.inference.background import Tasks
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.population import (
    empty_population,
    with_individual,
)
from cycleqd_jax.inference.programs import Population
from cycleqd_jax.inference.requests import Limits, Sampling
from cycleqd_jax.inference.slots import Conversation
from cycleqd_jax.inference.stats import EngineStats
from cycleqd_jax.merging.core_basis import AnyBasis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.merging.noise import NoiseSource
from cycleqd_jax.models.llama.program import Weights
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.base import Problem, Split, Task


@dataclasses.dataclass(frozen=True)
class Episode:
    """One problem that one individual tried.

    Attributes:
      individual: its name.
      split: the problem's split.
      task: the task's name.
      problem: the problem's id.
      outcome: a `tasks.base.Outcome`.
      score: 0.0 to 1.0.
      answer: what was executed.
      reply: the last reply in full.
      explanation: one line on the verdict.
      turns: how many replies were asked for.
      prompt_tokens: tokens of the last prompt.
      tokens: token ids of all replies, in order.
      finish: how the last reply ended.
      replies: all of them in full, so that the episode can be played again.
      metrics: further verdicts by name, see `tasks.base.Result`.
      seconds: wall time from the first question to the verdict, waiting included.
    """

    individual: str
    split: str
    task: str
    problem: str
    outcome: str
    score: float
    answer: str
    reply: str
    explanation: str
    turns: int
    prompt_tokens: int
    tokens: tuple[int, ...]
    finish: str
    replies: tuple[str, ...]
    metrics: Mapping[str, float]
    seconds: float


Progress = Callable[[int, int], None]  # (episodes done, episodes in all)
# What can be evaluated: a genome, or what makes whole weights when their turn comes.
Individual = Genome | Callable[[], Weights]


class Evaluator:
    """Runs episodes; holds what they share. Use it as a context manager."""

    def __init__(
        self,
        *,
        engine: Engine,
        weights: Weights,
        basis: AnyBasis | None,  # None where all individuals are whole weights
        tasks: Sequence[Task],
        sandbox: Sandbox,
        mode: str,
        individuals_per_pass: int,
        noise: NoiseSource | None = None,
    ):
        self.tasks = tuple(tasks)
        self._engine = engine
        self._weights = weights
        self._basis = basis
        self._sandbox = sandbox
        self._mode = mode
        self._noise = noise
        self._per_pass = individuals_per_pass if mode == "factored" else 1
        self._runner = asyncio.Runner()
        self._population: Population | None = None
        self._alone: Weights | None = None  # of the last genome that was materialised

    def __enter__(self) -> "Evaluator":
        self._runner.__enter__()
        return self

    def __exit__(self, *error) -> None:
        try:
            self._runner.run(self._close())
        finally:
            self._runner.__exit__(*error)

    async def _close(self) -> None:
        """Closes the sandbox, and tasks that hold something open."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._sandbox.close)
            for task in self.tasks:
                if hasattr(task, "aclose"):
                    stack.push_async_callback(task.aclose)

    @property
    def stats(self) -> EngineStats:
        """What the engine did so far."""
        return self._engine.stats

    def compile(self, progress: Callable[[str], None] | None = None) -> None:
        """Compiles the engine's programs, so that the first episodes do not wait.

        Args:
          progress: is told of each program.
        """
        if self._mode == "factored":
            self._engine.load(self._weights, self._empty_population())
        else:
            self._engine.load(self._weights)
        self._engine.compile(progress)

    def evaluate(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        *,
        tasks: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[Episode]:
        """Lets every individual try every problem of a split.

        Args:
          individuals: name -> genome, or what makes whole weights; they are evaluated
            one by one.
          split: whose problems.
          tasks: names of the tasks to run, default all.
          progress: called after each episode.

        Returns:
          One episode per (individual, task, problem), sorted by individual, then in
          the order of tasks and problems, whatever order they ended in.

        Raises:
          SandboxError: if the environment failed; nothing is scored then.
        """
        chosen = [t for t in self.tasks if tasks is None or t.name in tasks]
        problems = [(task, p) for task in chosen for p in task.problems(split)]
        total, done, episodes = len(individuals) * len(problems), 0, []

        def one_done() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total)

        for names in _streams(individuals, self._mode):
            stream = {name: individuals[name] for name in names}
            episodes.extend(
                self._runner.run(self._run_stream(stream, split, problems, one_done))
            )
        return episodes

    def _empty_population(self) -> Population:
        """A population of base models; it always has one size, so programs do."""
        if self._population is None:
            empty = empty_population(self._basis, self._per_pass)
            self._population = self._engine.place(empty)
        return self._population

    def _load_alone(self, individual: Individual) -> None:
        self._engine.load({})  # two individuals' weights need not fit at once
        old, self._alone = self._alone, None
        if isinstance(individual, Genome):
            weights = materialise(
                self._weights, self._basis, individual, self._noise, into=old
            )
            if self._noise is None:  # with noise all weights are new ones
                self._alone = weights
        else:
            del old
            weights = individual()
        self._engine.load(weights)

    async def _run_stream(self, stream, split, problems, one_done) -> list[Episode]:
        """Individuals one after another, as many at once as share a pass."""
        free: asyncio.Queue[int] = asyncio.Queue()
        first = next(iter(stream.values()))
        if self._mode == "factored" and isinstance(first, Genome):
            population, self._alone = self._empty_population(), None
            self._engine.load(self._weights, population)
            for row in range(self._per_pass):
                free.put_nowait(row)
        else:
            population = None
            self._load_alone(first)
            free.put_nowait(0)

        tasks = Tasks()

        async def individual(name: str, row: int) -> list[Episode]:
            # Task by task: replies of one task end together, and with the shortest
            # task named last few slots idle at the end.
            episodes = [
                tasks.start(
                    self._episode(row, name, split, task, problem, place, one_done)
                )
                for place, (task, problem) in enumerate(problems)
            ]
            done = [await episode for episode in episodes]
            free.put_nowait(row)
            return done

        async def everybody() -> list[Episode]:
            nonlocal population
            running = []
            for name, genome in stream.items():
                row = await free.get()
                if population is not None:
                    population = with_individual(population, self._basis, genome, row)
                    self._engine.replace(population)
                running.append(tasks.start(individual(name, row)))
            return [episode for one in running for episode in await one]

        tasks.start(self._engine.serve())  # it only ends by failing
        work = tasks.start(everybody())
        try:
            await asyncio.wait({work, tasks.failed}, return_when="FIRST_COMPLETED")
            if tasks.failed.done():
                tasks.failed.result()
            return work.result()
        finally:
            await tasks.stop()

    async def _episode(
        self,
        row: int,
        name: str,
        split: Split,
        task: Task,
        problem: Problem,
        place: int,
        one_done,
    ) -> Episode:
        replies: list[Reply] = []
        limit = task.max_new_tokens

        async def chat(
            messages: Sequence[Message], options: ChatOptions = DEFAULT_CHAT
        ) -> Reply:
            reply = await self._reply(messages, options, conversation, limit)
            replies.append(reply)
            return reply

        start = time.perf_counter()
        with self._engine.conversation(row, priority=place) as conversation:
            result = await task.run(problem, chat, self._sandbox)
        one_done()
        last = replies[-1] if replies else Reply("")
        return Episode(
            individual=name,
            split=str(split),
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

    async def _reply(
        self,
        messages: Sequence[Message],
        options: ChatOptions,
        conversation: Conversation,
        limit: int,
    ) -> Reply:
        """One turn; a conversation that has outgrown the engine gets an empty reply."""
        prompt = self._engine.encode(messages, options.template)
        if len(prompt) >= self._engine.shape.length:
            return Reply("", (), len(prompt), Finish.LENGTH)
        sampling = Sampling(options.temperature, top_p=options.top_p, seed=options.seed)
        got = await self._engine.generate(
            prompt,
            Limits(limit, options.stop_strings),
            sampling=sampling,
            conversation=conversation,
        )
        return Reply(got.text, got.tokens, got.prompt_tokens, got.finish)


def _streams(individuals: Mapping[str, Individual], mode: str) -> Iterator[list[str]]:
    """Names in order: genomes that can share passes together, all others alone."""
    stream: list[str] = []
    for name, individual in individuals.items():
        if mode == "factored" and isinstance(individual, Genome):
            stream.append(name)
            continue
        if stream:
            yield stream
            stream = []
        yield [name]
    if stream:
        yield stream


def mean_scores(episodes: Iterable[Episode]) -> dict[str, dict[str, float]]:
    """Mean score by individual and task, in float64."""
    scores: dict[str, dict[str, list[float]]] = {}
    for e in episodes:
        scores.setdefault(e.individual, {}).setdefault(e.task, []).append(e.score)
    return {
        name: {task: sum(values) / len(values) for task, values in by_task.items()}
        for name, by_task in scores.items()
    }
