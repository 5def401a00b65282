"""Dialogues drawn at random, and what holds them."""

import asyncio
import dataclasses
import random

import pytest

from cycleqd_jax.inference.requests import Limits

BOTH = pytest.mark.parametrize("deterministic", [True, False])
LENGTH = 48


def engine_with(make, program, weights, population=None, **changes):
    engine = make.engine(program, make.shape.model_copy(update=changes))
    engine.load(weights, population)
    return engine


@dataclasses.dataclass(frozen=True)
class Turn:
    """What is said in one turn; with `patience` it is given up after so long."""

    said: tuple[int, ...]
    limits: Limits
    pause: float
    patience: float | None = None


@dataclasses.dataclass(frozen=True)
class Dialogue:
    individual: int
    priority: int
    turns: tuple[Turn, ...]


def dialogues_of(seed, count, *, give_up):
    rng = random.Random(seed)

    def numbers(least, most):
        return tuple(rng.randrange(1, 160) for _ in range(rng.randint(least, most)))

    def turn(first):
        stops = rng.choice([(), (), (str(rng.randrange(10, 160)),), ("5 ", " 12")])
        return Turn(
            numbers(1, 21) if first else numbers(1, 6),
            Limits(rng.randrange(1, 9), stops),
            rng.choice([0.0, 0.0, 0.01, 0.03]),
            rng.choice([0.0, 0.002, 0.02]) if give_up and rng.random() < 0.3 else None,
        )

    return [
        Dialogue(
            rng.randrange(3),
            rng.randrange(3),
            tuple(turn(i == 0) for i in range(rng.randrange(1, 4))),
        )
        for _ in range(count)
    ]


async def hold(engine, dialogue, *, logprobs):
    """Every turn as (prompt, limits, reply), without those that were given up."""
    prompt, held = [], []
    opened = engine.conversation(dialogue.individual, priority=dialogue.priority)
    with opened as conversation:
        for turn in dialogue.turns:
            await asyncio.sleep(turn.pause)
            prompt = [*prompt, *turn.said]
            if len(prompt) >= LENGTH:
                break
            asked = engine.generate(
                prompt, turn.limits, conversation=conversation, logprobs=logprobs
            )
            try:
                reply = await asyncio.wait_for(asked, turn.patience)
            except TimeoutError:
                continue
            held.append((tuple(prompt), turn.limits, reply))
            prompt = [*prompt, *reply.tokens]
    return held


def hold_all(engine, dialogues, order, make, *, logprobs=False):
    async def run():
        async with make.serving(engine):
            tasks = {
                i: asyncio.ensure_future(hold(engine, dialogues[i], logprobs=logprobs))
                for i in order
            }
            await asyncio.wait_for(asyncio.gather(*tasks.values()), 120)
            return [tasks[i].result() for i in range(len(dialogues))]

    return asyncio.run(run())
