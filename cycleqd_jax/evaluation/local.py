"""The local evaluator: one engine and one sandbox in this process.

Every (individual, problem) pair is one coroutine, and all coroutines run at once: the
engine batches their requests, and the sandbox runs their programs beside it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

from cycleqd_jax.chat import DEFAULT_CHAT, Chat, ChatOptions, Finish, Message, Reply
from cycleqd_jax.evaluation.base import (
    Cost,
    Episode,
    Evaluation,
    ProblemIds,
    Progress,
    ReferenceScore,
    Scoring,
    select_problems,
)
from cycleqd_jax.evaluation.whole import WholeModels
from cycleqd_jax.inference.background import Tasks
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.population import (
    Population,
    empty_population,
    with_individual,
)
from cycleqd_jax.inference.requests import Limits, Sampling
from cycleqd_jax.inference.slots import Conversation
from cycleqd_jax.inference.stats import EngineStats
from cycleqd_jax.merging.core_basis import AnyBasis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.merging.noise import NoiseSource
from cycleqd_jax.models.base import Weights
from cycleqd_jax.models.dialogues import examples_of, turn_end
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.base import Problem, Split, Task, reference, run_episode

# One coroutine: row in the population, individual's name, task, problem, place of the
# problem in the call's order -> a row of the result.
Job = Callable[[int, str, Task, Problem, int], Coroutine[Any, Any, Any]]


class LocalEvaluator:
    """Runs episodes on this machine; use it as a context manager.

    Attributes:
      tasks: in the order of the archives.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        weights: Weights,
        basis: AnyBasis | None,
        tasks: Sequence[Task],
        sandbox: Sandbox,
        mode: str,
        individuals_per_pass: int,
        noise: NoiseSource | None = None,
        whole: WholeModels | None = None,
    ):
        """Takes what all calls share.

        Args:
          engine: answers requests.
          weights: the base model's, on the device.
          basis: of the genomes; None where no individual is a genome.
          tasks: in the order of the archives.
          sandbox: runs programs; closed with the evaluator.
          mode: "factored" or "materialised", how genomes are evaluated.
          individuals_per_pass: genomes that share a pass in factored mode.
          noise: source of the genomes' Gaussian noise, if they have any.
          whole: loads individuals that are no genomes, if there are any.
        """
        self.tasks = tuple(tasks)
        self._engine = engine
        self._weights = weights
        self._basis = basis
        self._sandbox = sandbox
        self._mode = mode
        self._noise = noise
        self._whole = whole
        self._per_pass = individuals_per_pass if mode == "factored" else 1
        self._runner = asyncio.Runner()
        self._population: Population | None = None
        # Weights of the last materialised genome; the next one reuses their memory.
        self._reusable: Weights | None = None

    def __enter__(self) -> "LocalEvaluator":
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
        """Counters of the engine since it was made."""
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
        problems: ProblemIds | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Runs one episode per individual and problem; see `Evaluator.evaluate`."""

        async def job(row: int, name: str, task: Task, problem: Problem, place: int):
            return await self._episode(row, name, split, task, problem, place)

        return Evaluation(*self._run(individuals, split, problems, progress, job))

    def score(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        *,
        problems: ProblemIds | None = None,
        progress: Progress | None = None,
    ) -> Scoring:
        """Log-probabilities of reference answers; see `Evaluator.score`.

        Tokens are those that training learns: all assistant messages of the reference
        dialogue, each with the token that ends it.

        Raises:
          RequestError: a reference dialogue is longer than the engine's length.
        """

        async def job(row: int, name: str, task: Task, problem: Problem, place: int):
            return await self._reference_score(row, name, split, task, problem, place)

        return Scoring(*self._run(individuals, split, problems, progress, job))

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
        total, done, results = len(individuals) * len(chosen), 0, []

        async def counted(*args) -> Any:
            nonlocal done
            result = await job(*args)
            done += 1
            if progress is not None:
                progress(done, total)
            return result

        for names in _groups(individuals, self._mode):
            group = {name: individuals[name] for name in names}
            results.extend(self._runner.run(self._run_group(group, chosen, counted)))
        used = self.stats.since(before)
        forward = used.prefill_tokens + used.decode_tokens + used.scored_tokens
        return results, Cost(forward, 0, time.perf_counter() - start, used)

    def _empty_population(self) -> Population:
        """Base models only; always of one size, so that programs compile once."""
        if self._population is None:
            empty = empty_population(self._basis, self._per_pass)
            self._population = self._engine.place(empty)
        return self._population

    def _load_alone(self, individual: Individual) -> None:
        """Loads the whole weights of one individual into the engine."""
        self._engine.load({})  # two individuals' weights need not fit at once
        old, self._reusable = self._reusable, None
        if isinstance(individual, Genome):
            weights = materialise(
                self._weights, self._basis, individual, self._noise, into=old
            )
            if (
                self._noise is None
            ):  # with noise, weights of the base are new arrays too
                self._reusable = weights
        else:
            del old
            weights = self._whole.weights(individual)
        self._engine.load(weights)

    async def _run_group(
        self,
        group: Mapping[str, Individual],
        problems: Sequence[tuple[Task, Problem]],
        job: Job,
    ) -> list[Any]:
        """Individuals one after another, as many at once as share a pass."""
        free: asyncio.Queue[int] = asyncio.Queue()
        first = next(iter(group.values()))
        if self._mode == "factored" and isinstance(first, Genome):
            population, self._reusable = self._empty_population(), None
            self._engine.load(self._weights, population)
            for row in range(self._per_pass):
                free.put_nowait(row)
        else:
            population = None
            self._load_alone(first)
            free.put_nowait(0)

        background = Tasks()

        async def individual(name: str, row: int) -> list[Any]:
            # In the order of tasks: replies of one task have similar lengths, so slots
            # become free together, and few idle at the end.
            running = [
                background.start(job(row, name, task, problem, place))
                for place, (task, problem) in enumerate(problems)
            ]
            results = [await one for one in running]
            free.put_nowait(row)
            return results

        async def everybody() -> list[Any]:
            nonlocal population
            running = []
            for name, genome in group.items():
                row = await free.get()
                if population is not None:
                    population = with_individual(population, self._basis, genome, row)
                    self._engine.replace(population)
                running.append(background.start(individual(name, row)))
            return [result for one in running for result in await one]

        background.start(self._engine.serve())  # it only ends by failing
        work = background.start(everybody())
        try:
            await asyncio.wait({work, background.failed}, return_when="FIRST_COMPLETED")
            if background.failed.done():
                background.failed.result()
            return work.result()
        finally:
            await background.stop()

    async def _episode(
        self,
        row: int,
        name: str,
        split: Split,
        task: Task,
        problem: Problem,
        place: int,
    ) -> Episode:
        replies: list[Reply] = []
        limit = task.max_new_tokens

        async def chat(
            messages: Sequence[Message], options: ChatOptions = DEFAULT_CHAT
        ) -> Reply:
            reply = await self._reply(messages, options, conversation, limit)
            replies.append(reply)
            return reply

        def new_chat() -> Chat:
            replies.clear()  # those of an attempt whose environment failed
            return chat

        start = time.perf_counter()
        with self._engine.conversation(row, priority=place) as conversation:
            result = await run_episode(task, problem, new_chat, self._sandbox)
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
        """One turn; a conversation longer than the engine's length gets no tokens."""
        prompt = self._engine.encode(messages, options.template)
        if len(prompt) >= self._engine.settings.length:
            return Reply("", (), len(prompt), Finish.LENGTH)
        sampling = Sampling(options.temperature, top_p=options.top_p, seed=options.seed)
        got = await self._engine.generate(
            prompt,
            Limits(limit, options.stop_strings),
            sampling=sampling,
            conversation=conversation,
        )
        return Reply(got.text, got.tokens, got.prompt_tokens, got.finish)

    async def _reference_score(
        self,
        row: int,
        name: str,
        split: Split,
        task: Task,
        problem: Problem,
        place: int,
    ) -> ReferenceScore:
        where = dict(
            individual=name, split=str(split), task=task.name, problem=problem.id
        )
        dialogue = reference(task, problem)
        if dialogue is None:
            return ReferenceScore(**where, logprob=None, tokens=0)
        tokenizer = self._engine.tokenizer
        logprob, tokens = 0.0, 0
        with self._engine.conversation(row, priority=place) as conversation:
            for example in examples_of(dialogue, tokenizer, turn_end(tokenizer)):
                start = example.learnt[0]
                got = await self._engine.score(
                    example.tokens, start, conversation=conversation
                )
                logprob += sum(got.logprobs[i - start] for i in example.learnt)
                tokens += len(example.learnt)
        return ReferenceScore(**where, logprob=logprob, tokens=tokens)


def _groups(individuals: Mapping[str, Individual], mode: str) -> Iterator[list[str]]:
    """Names in order: genomes that can share passes together, all others alone."""
    sharing: list[str] = []
    for name, individual in individuals.items():
        if mode == "factored" and isinstance(individual, Genome):
            sharing.append(name)
            continue
        if sharing:
            yield sharing
            sharing = []
        yield [name]
    if sharing:
        yield sharing
