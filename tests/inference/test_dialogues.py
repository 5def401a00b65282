"""Dialogues of many turns, whatever arrives, ends or is given up when."""

import asyncio
import dataclasses
import random

import pytest
from dialogues import BOTH, dialogues_of, engine_with, hold_all

from cycleqd_jax.inference.requests import Limits, Sampling


@BOTH
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))]
)
def test_dialogues_equal_a_naive_loop(
    make, program, weights, population, naive, seed, deterministic
):
    rng = random.Random(100 + seed)
    slots = rng.choice([1, 2, 3, 5])
    engine = engine_with(
        make,
        program,
        weights,
        population,
        slots=slots,
        prefill_rows=rng.randint(1, min(slots, 3)),
        decode_steps=rng.choice([1, 3]),
        deterministic=deterministic,
    )
    dialogues = dialogues_of(seed, 14, give_up=True)
    order = rng.sample(range(len(dialogues)), len(dialogues))
    turns = 0
    for dialogue, held in zip(
        dialogues, hold_all(engine, dialogues, order, make), strict=True
    ):
        for prompt, limits, reply in held:
            want = naive(prompt, dialogue.individual, limits)
            # A stop string may end before the stop token that came with it.
            assert (reply.tokens, reply.text) in (want, (want[0][:-1], want[1]))
            assert reply.prompt_tokens == len(prompt)
            turns += 1
    assert turns >= 8
    slots = engine._scheduler.slots
    assert not slots.active and not any(slots._slots) and not slots._evicted


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))]
)
def test_deterministic_bits_do_not_depend_on_the_order_of_arrival(
    make, program, weights, population, seed
):
    engine = engine_with(make, program, weights, population, slots=4)
    dialogues = dialogues_of(20 + seed, 12, give_up=False)
    rng = random.Random(seed)
    order = list(range(len(dialogues)))
    want = hold_all(engine, dialogues, order, make, logprobs=True)
    for _ in range(3):
        rng.shuffle(order)
        moved = [
            dataclasses.replace(
                d,
                priority=rng.randrange(5),
                turns=tuple(
                    dataclasses.replace(t, pause=rng.choice([0, 0.004, 0.02]))
                    for t in d.turns
                ),
            )
            for d in dialogues
        ]
        # Equal floats: not one bit of a log-probability may differ.
        assert hold_all(engine, moved, order, make, logprobs=True) == want
    assert engine.stats.evictions > 0
    alone = [hold_all(engine, [d], [0], make, logprobs=True)[0] for d in dialogues]
    assert alone == want


def test_deterministic_bits_do_not_depend_on_what_neighbours_want(
    make, program, weights
):
    engine = engine_with(make, program, weights)

    async def run(crowd):
        async with make.serving(engine):
            others = [
                engine.generate([9 + i, 5], Limits(9), logprobs=False, sampling=s)
                for i, s in enumerate(crowd)
            ]
            scored = [engine.score([3, 4, 5, 6 + i], 1) for i in range(len(crowd))]
            asked = engine.generate([5, 6, 8], Limits(12), logprobs=True)
            return (await asyncio.gather(asked, *others, *scored))[0]

    warm = Sampling(temperature=1.0, seed=3)
    want = asyncio.run(run([]))
    for crowd in ([Sampling()] * 3, [warm] * 5, [Sampling(), warm, Sampling(), warm]):
        assert asyncio.run(run(crowd)) == want


def test_deterministic_bits_do_not_depend_on_when_a_turn_was_given_up(
    make, program, weights, population
):
    """Waiting, in prefill, decoding, in the moment of its answer, or never asked."""
    engine = engine_with(make, program, weights, population, slots=2)
    scheduler, step = engine._scheduler, engine._scheduler._step

    async def run(calls, given_up, after):
        """Turn three's answer where turn two was given up after so many calls."""
        async with make.serving(engine):
            with engine.conversation(1) as conversation:

                def ask(prompt):
                    return engine.generate(
                        prompt, Limits(8), conversation=conversation, logprobs=True
                    )

                first = await ask([5, 6, 8, 9, 10])
                turn = None

                async def counted():
                    nonlocal calls
                    calls -= 1
                    busy = await step()
                    if calls <= 0:
                        turn.cancel()
                    return busy

                if calls is not None:
                    turn = asyncio.ensure_future(ask([*given_up(first.tokens)]))
                    scheduler._step = counted
                    await asyncio.wait({turn})
                    scheduler._step = step
                    assert turn.cancelled()
                return await ask([*after(first.tokens)])

    def given_up(reply):
        return [5, 6, 8, 9, 10, *reply, *range(20, 31)]

    async def would_be():
        async with make.serving(engine):
            return await engine.generate(given_up(first.tokens), Limits(8))

    first = asyncio.run(run(None, None, lambda reply: [5, 6, 8, 9, 10]))
    said = asyncio.run(would_be()).tokens

    def after(reply):  # begins as what was given up, and what it would have answered
        return [*given_up(reply), *said[:6], 3]

    want = asyncio.run(run(None, None, after))
    for calls in range(1, 6):
        assert asyncio.run(run(calls, given_up, after)) == want
