"""What the scheduler promises, whatever arrives, ends or is given up when."""

import asyncio
import contextlib
import dataclasses
import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cycleqd_jax.inference.requests import Limits, RequestError, Sampling

BOTH = pytest.mark.parametrize("deterministic", [True, False])
LENGTH = 48


def engine_with(make, program, weights, population=None, **changes):
    engine = make.engine(program, dataclasses.replace(make.shape, **changes))
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


@pytest.fixture(scope="module")
def naive(make, program, weights, population):
    """One sequence at a time, every token by a pass over the whole text."""
    forward = jax.jit(lambda t, i: program.full(weights, t, population.deltas(i)))

    @functools.cache
    def reply(prompt, individual, limits):
        new = []
        room = min(limits.max_new_tokens, LENGTH - len(prompt))
        while len(new) < room:
            text = np.zeros((1, LENGTH), np.int32)
            ids = [*prompt, *new]
            text[0, : len(ids)] = ids
            logits = forward(text, jnp.array([individual]))
            new.append(int(np.argmax(logits[0, len(ids) - 1])))
            stopped = new[-1] in make.tokenizer.stop_ids
            shown = " ".join(map(str, new[:-1] if stopped else new))
            places = [shown.find(stop) for stop in limits.stop_strings]
            if any(place >= 0 for place in places):
                return tuple(new), shown[: min(p for p in places if p >= 0)]
            if stopped:
                break
        return tuple(new), shown

    return reply


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
    assert not slots.active and not any(slots._slots) and not slots._aside


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


def test_a_turn_given_up_in_the_queue_may_be_asked_again(make, program, weights, naive):
    """Its old place in the queue is void: it must not begin a second time."""
    engine = engine_with(make, program, weights, slots=1, prefill_rows=1)

    async def run():
        async with make.serving(engine):
            first = asyncio.ensure_future(engine.generate([5, 6], Limits(20)))
            with engine.conversation() as conversation:
                for _ in range(3):
                    asked = engine.generate(
                        [7, 8], Limits(9), conversation=conversation
                    )
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(asked, 0.002)
                asked = engine.generate([7, 8], Limits(9), conversation=conversation)
                return await asked, await first

    again, first = asyncio.run(run())
    assert again.tokens == make.naive(program, weights, None, [7, 8], 9)
    assert first.tokens == make.naive(program, weights, None, [5, 6], 20)


def test_a_conversation_takes_one_turn_at_a_time_and_none_after_its_end(
    make, program, weights
):
    engine = engine_with(make, program, weights)

    async def run():
        async with make.serving(engine):
            with engine.conversation() as conversation:
                turns = [
                    engine.generate([5, 6], Limits(4), conversation=conversation)
                    for _ in range(2)
                ]
                got = await asyncio.gather(*turns, return_exceptions=True)
                with pytest.raises(RequestError, match="no room"):
                    await engine.generate(
                        [5] * LENGTH, Limits(4), conversation=conversation
                    )
                # A refused turn leaves the conversation as it was.
                prompt = [5, 6, *got[0].tokens, 9]
                after = await engine.generate(
                    prompt, Limits(4), conversation=conversation
                )
                left = asyncio.ensure_future(
                    engine.generate([7] * 20, Limits(20), conversation=conversation)
                )
                await asyncio.sleep(0)  # it has begun, and cannot have ended
            with pytest.raises(RequestError, match="closed"):
                await left
            with pytest.raises(RequestError, match="closed"):
                await engine.generate([5, 6], Limits(4), conversation=conversation)
            return got, after

    (first, second), after = asyncio.run(run())
    assert isinstance(second, RequestError) and "not ended" in str(second)
    prompt = [5, 6, *first.tokens, 9]
    assert after.tokens == make.naive(program, weights, None, prompt, 4)
    assert after.reused_tokens == len(prompt) - 2
    assert not any(engine._scheduler.slots._slots)


def test_waiting_conversations_cost_no_work(make, program, weights):
    """The engine sleeps until one goes on, instead of looking all the time."""
    engine = engine_with(make, program, weights, slots=1, prefill_rows=1)
    steps = 0
    step = engine._scheduler._step

    async def counted():
        nonlocal steps
        steps += 1
        return await step()

    engine._scheduler._step = counted

    async def run():
        async with make.serving(engine):
            with engine.conversation() as conversation:
                await engine.generate([5, 6], Limits(2), conversation=conversation)
                await asyncio.sleep(0.05)
                before = steps
                await asyncio.sleep(0.2)
                assert steps == before
            return await asyncio.wait_for(engine.generate([7, 8], Limits(3)), 60)

    assert len(asyncio.run(run()).tokens) > 0
    assert engine.stats.idle_seconds > 0.15


@BOTH
def test_conversations_that_wait_for_each_other_all_go_on(
    make, program, weights, deterministic
):
    """More than there are slots, none of which ends before all have begun."""
    engine = engine_with(make, program, weights, slots=2, deterministic=deterministic)
    everybody = asyncio.Barrier(7)

    async def one(first):
        with engine.conversation() as conversation:
            reply = await engine.generate(
                [first, 9], Limits(4), conversation=conversation
            )
            await everybody.wait()
            prompt = [first, 9, *reply.tokens, 11]
            after = await engine.generate(prompt, Limits(4), conversation=conversation)
            return prompt, after

    async def run():
        async with make.serving(engine):
            every = asyncio.gather(*map(one, range(20, 27)))
            return await asyncio.wait_for(every, 60)

    for prompt, reply in asyncio.run(run()):
        assert reply.tokens == make.naive(program, weights, None, prompt, 4)
        assert reply.reused_tokens == len(prompt) - 2
    assert engine.stats.evictions >= 5


def test_what_lies_aside_is_forgotten_when_others_are_loaded(make, program, weights):
    """Another model's cache is of no use to a conversation that outlives it."""
    engine = engine_with(make, program, weights, slots=1, prefill_rows=1)
    other = {name: weight * 1.1 for name, weight in weights.items()}

    async def run():
        with engine.conversation() as conversation:
            async with make.serving(engine):
                await engine.generate([5, 6], Limits(4), conversation=conversation)
                await engine.generate([7, 8], Limits(4))
            assert engine.stats.evictions == 1
            engine.load(other)
            async with make.serving(engine):
                return await engine.generate(
                    [5, 6, 9], Limits(8), conversation=conversation
                )

    reply = asyncio.run(run())
    assert reply.reused_tokens == 0
    assert reply.tokens == make.naive(program, other, None, [5, 6, 9], 8)


def test_the_lowest_priority_comes_first(make, program, weights):
    engine = engine_with(make, program, weights, slots=1, prefill_rows=1)
    ended = []

    async def one(name, priority):
        with engine.conversation(priority=priority) as conversation:
            await engine.generate([5, 6], Limits(2), conversation=conversation)
            ended.append(name)

    async def run():
        async with make.serving(engine):
            await asyncio.gather(one("c", 2), one("a", 0), one("d", 2), one("b", 1))

    asyncio.run(run())
    assert ended == ["a", "b", "c", "d"]


def test_a_stream_of_short_requests_starves_nobody(make, program, weights):
    """Scores and one-token replies keep coming; a long reply and prompt still end."""
    engine = engine_with(make, program, weights, slots=3, prefill_rows=1)

    async def stream(ask):
        while True:
            await ask()

    async def run():
        async with make.serving(engine):
            crowd = [
                asyncio.ensure_future(stream(ask))
                for ask in (
                    lambda: engine.score([4, 5, 6], 1),
                    lambda: engine.generate([4], Limits(1)),
                    lambda: engine.score([4, 5, 7], 2),
                    lambda: engine.generate([3], Limits(1)),
                )
            ]
            long = engine.generate([6] * 30, Limits(18))
            try:
                return await asyncio.wait_for(long, 60)
            finally:
                for task in crowd:
                    task.cancel()
                await asyncio.gather(*crowd, return_exceptions=True)

    reply = asyncio.run(run())
    assert reply.tokens == make.naive(program, weights, None, [6] * 30, 18)


@BOTH
def test_serving_again_after_it_was_cancelled(make, program, weights, deterministic):
    """Requests under way fail, the call that runs is waited for, nothing is lost."""
    engine = engine_with(make, program, weights, deterministic=deterministic)
    engine.compile()

    async def run():
        server = asyncio.ensure_future(engine.serve())
        asked = [
            asyncio.ensure_future(engine.generate([5 + i, 6], Limits(30)))
            for i in range(7)
        ]
        await asyncio.sleep(0.002)
        with pytest.raises(RuntimeError, match="running"):
            await engine.serve()
        server.cancel()
        got = await asyncio.gather(*asked, return_exceptions=True)
        assert all(
            isinstance(g, RuntimeError) or len(g.tokens) > 0 for g in got
        ) and any(isinstance(g, RuntimeError) for g in got)
        await asyncio.gather(server, return_exceptions=True)
        engine.load(weights)
        async with make.serving(engine):
            return await engine.generate([5, 6], Limits(9))

    reply = asyncio.run(run())
    assert reply.tokens == make.naive(program, weights, None, [5, 6], 9)


def test_a_device_error_reaches_everybody_and_the_engine_can_go_on(
    make, program, weights
):
    engine = engine_with(make, program, weights, slots=2)
    decode, calls = engine._calls._decode, 0

    def failing(*args):
        nonlocal calls
        calls += 1
        if calls == 3:
            engine._calls._take_cache()  # donated, then lost
            raise RuntimeError("out of memory")
        return decode(*args)

    engine._calls._decode = failing

    async def run():
        server = asyncio.ensure_future(engine.serve())
        with engine.conversation() as conversation:
            asked = [
                engine.generate([5, 6], Limits(30), conversation=conversation),
                *(engine.generate([7 + i, 6], Limits(30)) for i in range(4)),
            ]
            got = await asyncio.gather(*asked, return_exceptions=True)
            with pytest.raises(RuntimeError, match="out of memory"):
                await server
            async with make.serving(engine):  # the conversation goes on, too
                return got, await engine.generate(
                    [5, 6], Limits(9), conversation=conversation
                )

    got, after = asyncio.run(run())
    assert all("out of memory" in str(error) for error in got)
    assert after.tokens == make.naive(program, weights, None, [5, 6], 9)


@BOTH
def test_an_eviction_storm_changes_nothing(
    make, program, weights, population, naive, deterministic
):
    engine = engine_with(
        make, program, weights, population, slots=2, deterministic=deterministic
    )
    rng = random.Random(7)
    dialogues = [
        Dialogue(
            rng.randrange(3),
            0,
            tuple(
                Turn(tuple(rng.randrange(1, 160) for _ in range(4)), Limits(3), 0.005)
                for _ in range(5)
            ),
        )
        for _ in range(12)
    ]
    held = hold_all(engine, dialogues, range(12), make)
    for dialogue, turns in zip(dialogues, held, strict=True):
        assert len(turns) == 5
        for prompt, limits, reply in turns:
            want = naive(prompt, dialogue.individual, limits)
            assert (reply.tokens, reply.text) == want
    assert engine.stats.evictions >= 12


def test_tokens_that_are_not_in_the_vocabulary_are_refused(make, program, weights):
    engine = engine_with(make, program, weights)

    async def run():
        async with make.serving(engine):
            return await asyncio.gather(
                engine.generate([5, 160], Limits(2)),
                engine.generate([-1, 5], Limits(2)),
                engine.score([5, 6, 999], 1),
                return_exceptions=True,
            )

    for error in asyncio.run(run()):
        assert isinstance(error, RequestError) and "0 to 159" in str(error)
