"""Suite `population`: several individuals in one batch, and what each more costs."""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.population import (
    empty_population,
    with_individual,
)
from cycleqd_jax.inference.requests import Limits
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.runs.setup import Prepared
from experiments.benchmarks import frame, quickstart

_INDIVIDUALS, _EACH = 8, 4  # and sequences of each
_PROMPT, _NEW = 48, 64  # tokens
_LESS = 0.95  # children per minute may vary by so much


class _Endless(NamedTuple):
    """The model's tokenizer, but no token ends a reply: both sides do equal work."""

    inner: ChatTokenizer
    stop_ids: tuple[int, ...] = ()

    def decode(self, ids: Sequence[int]) -> str:
        return self.inner.decode(ids)


def run(options: frame.Options, say: frame.Say) -> list[frame.Row]:
    """Measures the suite."""
    config = quickstart.run_config(options)
    prepared = quickstart.prepared_run(config, say)
    state = quickstart.experts_only(prepared)
    world = _World(prepared, quickstart.children_of(state, _INDIVIDUALS))
    say("one batch of all, and one after another")
    ways = {
        "factored": lambda: world.together(_INDIVIDUALS),
        "materialised": world.one_by_one,
    }
    took = frame.medians(frame.measure(ways, options.repeats))
    same = np.mean(
        [
            a == b
            for one, other in zip(*world.replies.values(), strict=True)
            for a, b in zip(one, other, strict=True)
        ]
    )
    rows = [
        frame.compare(
            f"{_INDIVIDUALS} individuals x {_EACH} sequences in one factored batch",
            took["factored"],
            took["materialised"],
            "s",
            target=1.8,
            note="the same engine, one individual after another, materialised; set-up "
            f"of each included; {_PROMPT} tokens of prompt, {_NEW} new; {same:.0%} of "
            "all tokens equal",
        )
    ]
    say("more and more individuals")
    return rows + _growth(options, world) + [_memory(prepared, world.genomes)]


@dataclasses.dataclass
class _World:
    """One engine for both ways, with slots for all sequences.

    Attributes:
      prepared: of the run.
      genomes: `[I, G]` and `[I, K]`.
      replies: way -> tokens of all sequences, individual by individual.
    """

    prepared: Prepared
    genomes: Genome
    replies: dict[str, list[tuple[int, ...]]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        tokenizer = self.prepared.model.tokenizer
        self.engine = Engine(
            self.prepared.program,
            _Endless(tokenizer),
            EngineSettings(
                slots=_INDIVIDUALS * _EACH,
                length=-(-(_PROMPT + _NEW) // _PROMPT) * _PROMPT,  # whole chunks
                prefill_rows=_INDIVIDUALS,
                prefill_chunk=_PROMPT,
                decode_steps=8,
                deterministic=False,
            ),
        )
        rng = np.random.default_rng(0)
        size = (_INDIVIDUALS, _EACH, _PROMPT)
        self.prompts = rng.integers(0, tokenizer.vocab_size, size).tolist()
        self.empty = empty_population(self.prepared.basis, _INDIVIDUALS)

    def together(self, count: int) -> None:
        """The first `count` individuals in one factored batch, set-up included."""
        population = self.empty
        for row in range(count):
            population = with_individual(
                population, self.prepared.basis, self.genomes[row], row
            )
        self.engine.load(self.prepared.weights, population)
        rows = range(count)
        self.replies["factored"] = asyncio.run(
            self._ask([(row, prompt) for row in rows for prompt in self.prompts[row]])
        )

    def one_by_one(self) -> None:
        """All individuals one after another, materialised, set-up included."""
        replies = []
        for row in range(_INDIVIDUALS):
            self.engine.load({})  # two individuals' weights need not fit at once
            self.engine.load(
                materialise(
                    self.prepared.weights, self.prepared.basis, self.genomes[row]
                )
            )
            replies += asyncio.run(
                self._ask([(0, prompt) for prompt in self.prompts[row]])
            )
        self.replies["materialised"] = replies

    async def _ask(self, questions) -> list[tuple[int, ...]]:
        server = asyncio.ensure_future(self.engine.serve())
        answers = asyncio.gather(
            *(
                self.engine.generate(prompt, Limits(_NEW), individual=row)
                for row, prompt in questions
            )
        )
        try:
            await asyncio.wait({server, answers}, return_when="FIRST_COMPLETED")
            if server.done():
                server.result()
            return [answer.tokens for answer in await answers]
        finally:
            server.cancel()
            await asyncio.gather(server, return_exceptions=True)


def _growth(options: frame.Options, world: _World) -> list[frame.Row]:
    """Children per minute with 1, 2, 4, 8 individuals in the same slots."""
    counts = [1, 2, 4, _INDIVIDUALS]
    took = frame.medians(
        frame.measure(
            {str(n): lambda n=n: world.together(n) for n in counts}, options.repeats
        )
    )
    rates = [60 * n / took[str(n)] for n in counts]
    slots = world.engine.settings.slots
    rows = [
        frame.figure(
            "children per minute, 1 at once",
            rates[0],
            "1/min",
            note=f"{_EACH} sequences each, {slots} slots",
        )
    ]
    for n, before, rate, less in zip(
        counts[1:], rates, rates[1:], counts, strict=False
    ):
        rows.append(
            frame.compare(
                f"children per minute, {n} at once",
                rate,
                before,
                "1/min",
                target=_LESS,
                more_is_better=True,
                note=f"against {less} at once; {n * _EACH} of {slots} slots used",
            )
        )
    return rows


def _memory(prepared: Prepared, genomes: Genome) -> frame.Row:
    """The growth of a population's tables with one more individual, in bytes."""

    def size(rows: int) -> int:
        population = jax.eval_shape(lambda: empty_population(prepared.basis, rows))
        leaves = jax.tree.leaves(population)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    return frame.limit(
        "memory per added individual",
        float(size(_INDIVIDUALS) - size(_INDIVIDUALS - 1)),
        float(sum(leaf.nbytes for leaf in jax.tree.leaves(genomes[0]))),
        "B",
        note="tables of the population against one genome",
    )
