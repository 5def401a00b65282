"""Scores of individuals on tasks; the only place where engine and tasks meet.

Every (individual, task, problem) is one coroutine, and all of them run at once: the
engine batches what they ask, the sandbox runs their programs beside it.
"""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.programs import Population
from cycleqd_jax.merging.core_basis import AnyBasis
from cycleqd_jax.merging.genome import Genome, stack_genomes
from cycleqd_jax.merging.materialise import materialise, split_coefficients
from cycleqd_jax.merging.noise import NoiseSource
from cycleqd_jax.models.chat import ChatTokenizer
from cycleqd_jax.models.llama import Weights
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.base import Message, Problem, Reply, Split, Task


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
        self._population = jax.jit(_population)

    def __enter__(self) -> "Evaluator":
        self._runner.__enter__()
        return self

    def __exit__(self, *error) -> None:
        try:
            self._runner.run(self._sandbox.close())
        finally:
            self._runner.__exit__(*error)

    def compile(self) -> None:
        """Compiles the engine's programs, so that the first episodes do not wait."""
        self._load([self._zero()])
        self._engine.compile()

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

        for group in _groups(individuals, self._per_pass):
            self._load([individuals[name] for name in group])
            episodes.extend(
                self._runner.run(self._run_group(group, split, problems, one_done))
            )
        return episodes

    def _zero(self) -> Genome:
        basis = self._basis
        return Genome(
            jnp.zeros(basis.genome_size, jnp.float32),
            jnp.zeros(basis.num_experts, jnp.float32),
        )

    def _load(self, genomes: Sequence[Individual]) -> None:
        first = genomes[0]
        self._engine.load({})  # two individuals' weights need not fit at once
        if not isinstance(first, Genome):
            self._engine.load(first())
            return
        if self._mode == "materialised":
            weights = materialise(self._weights, self._basis, first, self._noise)
            self._engine.load(weights)
            return
        # The table always has the same size, so that the programs do.
        padding = [self._zero()] * (self._per_pass - len(genomes))
        stacked = stack_genomes([*genomes, *padding])
        self._engine.load(self._weights, self._population(self._basis, stacked))

    async def _run_group(self, names, split, problems, one_done) -> list[Episode]:
        server = asyncio.ensure_future(self._engine.serve())
        episodes = asyncio.gather(
            *(
                self._episode(index, name, split, task, problem, one_done)
                # Task by task: replies of one task end together, and with the
                # shortest task named last few slots idle at the end.
                for task, problem in problems
                for index, name in enumerate(names)
            )
        )
        try:
            await asyncio.wait({server, episodes}, return_when="FIRST_COMPLETED")
            if server.done():  # it only ends by failing
                server.result()
            place = {name: i for i, name in enumerate(names)}
            return sorted(await episodes, key=lambda e: place[e.individual])
        finally:
            episodes.cancel()
            server.cancel()
            await asyncio.gather(server, episodes, return_exceptions=True)

    async def _episode(
        self,
        index: int,
        name: str,
        split: Split,
        task: Task,
        problem: Problem,
        one_done,
    ) -> Episode:
        replies: list[Reply] = []

        async def chat(messages: Sequence[Message]) -> Reply:
            reply = await self._engine.chat(
                messages, individual=index, max_new_tokens=task.max_new_tokens
            )
            replies.append(reply)
            return reply

        start = time.perf_counter()
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
            seconds=time.perf_counter() - start,
        )


def _groups(individuals: Mapping[str, Individual], size: int) -> Iterator[list[str]]:
    """Names in order, up to `size` genomes or one with whole weights at a time."""
    group: list[str] = []
    for name, individual in individuals.items():
        alone = not isinstance(individual, Genome)
        if group and (alone or len(group) == size):
            yield group
            group = []
        if alone:
            yield [name]
        else:
            group.append(name)
    if group:
        yield group


def check_prompts(
    tasks: Sequence[Task],
    splits: Iterable[Split],
    tokenizer: ChatTokenizer,
    *,
    length: int,
    multiple_of: int,
) -> None:
    """Refuses problems that the engine has no room for, before anything runs.

    Args:
      tasks: their right dialogues are measured, with the longest last reply.
      splits: whose problems.
      tokenizer: of the model.
      length: the engine's, in tokens.
      multiple_of: what the length must be a multiple of.

    Raises:
      BadInputError: names the longest and the length that it needs.
    """
    needs = [
        (len(tokenizer.encode_chat(list(task.dialogue(p))[:-1])) + task.max_new_tokens,
         p.id)
        for split in splits
        for task in tasks
        for p in task.problems(split)
    ]  # fmt: skip
    need, problem = max(needs, default=(0, ""))
    if need > length:
        enough = -(-need // multiple_of) * multiple_of
        raise BadInputError(
            f"engine.length is {length} tokens, but {problem} needs {need} with its "
            f"reply; set it to {enough} or more."
        )


def mean_scores(episodes: Iterable[Episode]) -> dict[str, dict[str, float]]:
    """Mean score by individual and task, in float64."""
    scores: dict[str, dict[str, list[float]]] = {}
    for e in episodes:
        scores.setdefault(e.individual, {}).setdefault(e.task, []).append(e.score)
    return {
        name: {task: sum(values) / len(values) for task, values in by_task.items()}
        for name, by_task in scores.items()
    }


def _population(basis: AnyBasis, genomes: Genome) -> Population:
    """The factored form of I genomes, `[I, G]` and `[I, K]`."""
    sizes = {slot.name: slot.size for slot in basis.layout}
    return Population(
        u={name: basis.u[name].reshape(-1, size) for name, size in sizes.items()},
        v={name: basis.v[name].reshape(-1, size) for name, size in sizes.items()},
        coefficients=split_coefficients(basis, genomes),
        vectors={
            # Without HIGHEST a GPU or TPU would multiply in TF32 or bfloat16.
            name: jnp.tensordot(
                genomes.scales, delta, axes=1, precision=jax.lax.Precision.HIGHEST
            )
            for name, delta in basis.deltas.items()
        },
    )
