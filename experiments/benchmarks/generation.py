"""Decode, prefill and conversations of the engine, beside `transformers.generate`.

Both sides get the same prompts, weights, precision and threads, and take turns. A
decode rate is that of the time N + 1 tokens take less the time that one takes, so that
the prompt does not count on either side.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.requests import Limits as ReplyLimits
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.models.base import CausalLM
from cycleqd_jax.models.families import make_program
from cycleqd_jax.models.loading import LoadedModel
from experiments.benchmarks import frame, limits
from experiments.benchmarks.frame import Options, Row, Say

DECODE_TARGETS = {1: 1.8, 8: 1.2, 32: 1.15}  # sequences at once -> least ratio
PREFILL_PROMPTS = (1, 4)  # at once
PROMPT, NEW = 32, 48  # tokens of a prompt and of a reply where decoding is measured
LONG = 512  # tokens of a prompt where prefill is measured
TURNS, TURN_TOKENS, REPLY = 5, 60, 16  # of a conversation

Reply = tuple[int, ...]


def run(options: Options, say: Say) -> list[Row]:
    """Measures; see `frame`."""
    from experiments.benchmarks.torch_model import TorchModel

    if jax.default_backend() != "cpu":
        return _accelerator_rows()
    model = frame.base_model(options)
    bench = _Bench(model, TorchModel(model), options, say)
    rows = bench.ceiling()
    for count, target in DECODE_TARGETS.items():
        rows += bench.decode(count, target)
    for count in PREFILL_PROMPTS:
        rows += bench.prefill(count)
    return rows + bench.conversations() + _accelerator_rows()


def _accelerator_rows() -> list[Row]:
    """The cases that are measured on an NVIDIA GPU."""
    return [
        frame.not_measured(f"GPU, llama-3-8b bf16: {name}", unit, target)
        for name, unit, target in (
            ("decode, of the memory-bandwidth limit", "share", 0.7),
            ("prefill, of the matrix-unit limit", "share", 0.5),
        )
    ]


class _Plain:
    """A tokeniser's place where token ids are asked for and no id ends a reply."""

    stop_ids = ()

    def encode_chat(self, messages) -> list[int]:
        raise NotImplementedError("prompts are token ids here")

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


class _Ours:
    """The engine, asked from outside a loop."""

    def __init__(self, program: CausalLM, weights, shape: EngineSettings):
        self.engine = Engine(program, _Plain(), shape)
        self.engine.load(weights)

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]):
        """Runs the engine beside some work and returns the work's result."""

        async def both():
            server = asyncio.ensure_future(self.engine.serve())
            task = asyncio.ensure_future(work())
            try:
                await asyncio.wait({server, task}, return_when="FIRST_COMPLETED")
                if server.done():
                    server.result()
                return task.result()
            finally:
                for one in (server, task):
                    one.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await one

        return asyncio.run(both())

    def generate(self, prompts: Sequence[Sequence[int]], count: int) -> list[Reply]:
        """Greedy continuations of `count` tokens."""

        async def work():
            asked = (self.engine.generate(p, ReplyLimits(count)) for p in prompts)
            return [reply.tokens for reply in await asyncio.gather(*asked)]

        return self.run(work)


class _Bench:
    """The parts that the rows are measured with."""

    def __init__(self, model: LoadedModel, theirs, options: Options, say: Say):
        self._program = make_program(model.config)
        self._weights = {n: jnp.asarray(w) for n, w in model.weights.items()}
        self._text = _text(model)
        self._theirs, self._repeats, self._say = theirs, options.repeats, say
        matrices = [w for n, w in model.weights.items() if w.ndim == 2]
        self._bytes = sum(w.nbytes for w in matrices)
        self._matrix_numbers = sum(w.size for w in matrices)
        if not model.config.tie_word_embeddings:  # of which few rows are read
            self._bytes -= model.weights["model.embed_tokens.weight"].nbytes
            self._matrix_numbers -= model.weights["model.embed_tokens.weight"].size
        self._head = model.config.vocab_size * model.config.hidden_size

    def ceiling(self) -> list[Row]:
        """The machine's own limits."""
        self._say("memory bandwidth and matrix products")
        self._limits = limits.measure_limits(3 * self._repeats)
        return [
            frame.figure(
                "memory bandwidth",
                self._limits.bandwidth / 1e9,
                "GB/s",
                note="BLAS dot",
            ),
            frame.figure(
                "matrix products",
                self._limits.rate / 1e9,
                "GFLOP/s",
                note="XLA, float32, square",
            ),
        ]

    def decode(self, count: int, target: float) -> list[Row]:
        """Tokens per second of `count` sequences at once, and whether they agree."""
        self._say(f"decode, {count} at once")
        shape = EngineSettings(
            slots=count,
            length=PROMPT * 4,
            prefill_rows=min(count, 8),
            prefill_chunk=PROMPT,
            decode_steps=16,
        )
        ours = _Ours(self._program, self._weights, shape)
        prompts = self._prompts(count, PROMPT)
        answers: dict[str, list[Reply]] = {}

        def keep(name, side):
            def long():
                answers[name] = side.generate(prompts, NEW + 1)

            return long

        seconds = frame.measure(
            {
                "ours": keep("ours", ours),
                "other": keep("other", self._theirs),
                "ours, first token": lambda: ours.generate(prompts, 1),
                "other, first token": lambda: self._theirs.generate(prompts, 1),
            },
            self._repeats,
        )
        rates = {}
        for side in ("ours", "other"):
            pairs = zip(seconds[side], seconds[f"{side}, first token"], strict=True)
            rates[side] = [NEW * count / (whole - first) for whole, first in pairs]
        middle = frame.medians(rates)
        by_bytes = self._limits.bandwidth / self._bytes * count
        by_rate = self._limits.rate / (2 * self._matrix_numbers)
        most = min(by_bytes, by_rate)
        why = "bytes of weights" if most == by_bytes else "operations"
        return [
            frame.compare(
                f"decode, {count} at once, float32",
                middle["ours"],
                middle["other"],
                "tokens/s",
                target=target,
                more_is_better=True,
                note=f"transformers; {middle['ours'] / most:.0%} of the limit by "
                f"{why}, {most:,.0f} tokens/s",
            ),
            self._agreement(f"decode, {count} at once: same tokens", answers),
        ]

    def prefill(self, count: int) -> list[Row]:
        """Prompt tokens per second, up to the first token of the reply."""
        self._say(f"prefill, {count} prompts of {LONG} tokens")
        shape = EngineSettings(
            slots=count,
            length=LONG * 2,
            prefill_rows=count,
            prefill_chunk=LONG,
            decode_steps=1,
            deterministic=False,  # looks at the part of the cache that is filled
        )
        ours = _Ours(self._program, self._weights, shape)
        prompts = self._prompts(count, LONG)
        answers: dict[str, list[Reply]] = {}

        def keep(name, side):
            def first():
                answers[name] = side.generate(prompts, 1)

            return first

        sides = {"ours": keep("ours", ours), "other": keep("other", self._theirs)}
        middle = frame.medians(frame.measure(sides, self._repeats))
        tokens = count * LONG
        most = self._limits.rate / (2 * (self._matrix_numbers - self._head))
        rates = {name: tokens / seconds for name, seconds in middle.items()}
        return [
            frame.compare(
                f"prefill, {count} x {LONG} tokens, float32",
                rates["ours"],
                rates["other"],
                "tokens/s",
                target=1.0,
                more_is_better=True,
                note=f"transformers; {rates['ours'] / most:.0%} of the limit by "
                f"operations, {most:,.0f} tokens/s",
            ),
            self._agreement(f"prefill, {count} prompts: same first token", answers),
        ]

    def conversations(self) -> list[Row]:
        """Prompt tokens computed and time, with the cache kept and without."""
        self._say(f"conversations of {TURNS} turns")
        shape = EngineSettings(
            slots=4, length=512, prefill_rows=4, prefill_chunk=64, decode_steps=8
        )
        ours = _Ours(self._program, self._weights, shape)
        engine = ours.engine
        texts = [
            [self._part(5 * i + turn, TURN_TOKENS) for turn in range(TURNS)]
            for i in range(4)
        ]
        answers: dict[str, list[Reply]] = {}
        computed: dict[str, int] = {}

        async def talk(turns, conversation):
            prompt: list[int] = []
            replies: list[int] = []
            for new in turns:
                prompt += new
                reply = await engine.generate(
                    tuple(prompt), ReplyLimits(REPLY), conversation=conversation
                )
                prompt += reply.tokens
                replies += reply.tokens
            return tuple(replies)

        async def kept(turns):
            with engine.conversation() as conversation:
                return await talk(turns, conversation)

        def side(name, one):
            async def work():
                return await asyncio.gather(*map(one, texts))

            def measured():
                before = engine.stats.copy()
                answers[name] = ours.run(work)
                computed[name] = engine.stats.since(before).prefill_tokens

            return measured

        sides = {
            "ours": side("ours", kept),
            "other": side("other", lambda turns: talk(turns, None)),
        }
        middle = frame.medians(frame.measure(sides, self._repeats))
        what = f"{TURNS} turns, {TURNS * TURN_TOKENS} new tokens"
        return [
            frame.compare(
                f"conversation, {what}: prompt tokens computed",
                computed["ours"] / len(texts),
                computed["other"] / len(texts),
                "tokens",
                target=2.0,
                note="the same engine without its cache between turns",
            ),
            frame.compare(
                f"conversation, {what}: time of {len(texts)}",
                middle["ours"],
                middle["other"],
                "s",
                note="the same; replies are decoded on both sides",
            ),
            self._agreement("conversation: same text", answers),
        ]

    def _prompts(self, count: int, length: int) -> list[tuple[int, ...]]:
        return [tuple(self._part(7 * i, length)) for i in range(count)]

    def _part(self, place: int, length: int) -> list[int]:
        return list(
            itertools.islice(itertools.cycle(self._text), place, place + length)
        )

    def _agreement(self, name: str, answers: dict[str, list[Reply]]) -> Row:
        pairs = list(zip(answers["ours"], answers["other"], strict=True))
        same = sum(one == other for one, other in pairs)
        return frame.compare(
            name, same, len(pairs), "replies", target=1.0, more_is_better=True
        )


def _text(model: LoadedModel) -> list[int]:
    """Token ids of ordinary text, from the model's own tokeniser."""
    messages = [{"role": "user", "content": " ".join(_WORDS)}]
    ids = model.tokenizer.encode_chat(messages)
    return [int(i) for i in np.asarray(ids)]


_WORDS = (
    "A small function takes a list of numbers and returns their mean; the empty list "
    "has none. The table of pets has names, kinds and ages: which one is the oldest? "
    "Find all files in the folder that end in .log and count their lines. On Monday "
    "the train left at ten past seven, and it rained until the evening.",
    "Rivers that flow north are rarer than one would think, because mountains and "
    "seas lie where they lie. Bread needs flour, water, salt and time.",
)
