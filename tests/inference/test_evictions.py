"""Conversations between two turns lose their slots and get them back."""

import asyncio
import random

import pytest
from dialogues import BOTH, Dialogue, Turn, engine_with, hold_all

from cycleqd_jax.inference import programs, scheduler
from cycleqd_jax.inference.requests import Limits


def wait_for_each_other(make, engine, count):
    """No dialogue ends before all have started; second prompt and reply of each."""
    everybody = asyncio.Barrier(count)

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
            every = asyncio.gather(*map(one, range(20, 20 + count)))
            return await asyncio.wait_for(every, 60)

    return asyncio.run(run())


@BOTH
def test_conversations_that_wait_for_each_other_all_continue(
    make, program, weights, deterministic
):
    """More conversations than slots, none of which ends before all have started."""
    engine = engine_with(make, program, weights, slots=2, deterministic=deterministic)
    for prompt, reply in wait_for_each_other(make, engine, 7):
        assert reply.tokens == make.naive(program, weights, None, prompt, 4)
        assert reply.reused_tokens == len(prompt) - 2
    assert engine.stats.evictions >= 5


@pytest.fixture
def no_room(monkeypatch):
    """Nothing may be evicted, unless the engine is stalled."""
    monkeypatch.setattr(scheduler, "_EVICTED_BYTES", 0)
    monkeypatch.setattr(scheduler, "_EVICTED_SHARE", 0.0)
    monkeypatch.setattr(scheduler, "_STALL_SECONDS", 0.05)


def test_evicted_bytes_are_bounded(make, program, weights, monkeypatch, no_room):
    """Episodes of one turn whose verdicts take long do not pile up in memory."""
    monkeypatch.setattr(scheduler, "_STALL_SECONDS", 60)
    engine = engine_with(make, program, weights, slots=2)
    verdicts, most = asyncio.Semaphore(1), 0

    async def one(first):
        nonlocal most
        with engine.conversation() as conversation:
            await engine.generate([first, 9], Limits(2), conversation=conversation)
            async with verdicts:
                await asyncio.sleep(0.01)
            most = max(most, len(engine._scheduler.slots._evicted))

    async def run():
        async with make.serving(engine):
            every = asyncio.gather(*map(one, range(20, 40)))
            await asyncio.wait_for(every, 60)

    asyncio.run(run())
    assert most <= 1


def test_a_stalled_engine_evicts_beyond_the_limit(make, program, weights, no_room):
    engine = engine_with(make, program, weights, slots=2)
    replies = wait_for_each_other(make, engine, 7)
    assert engine.stats.evictions >= 5
    for prompt, reply in replies:
        assert reply.tokens == make.naive(program, weights, None, prompt, 4)


@BOTH
def test_an_evicted_conversation_is_abandoned_or_closed(
    make, program, weights, deterministic
):
    engine = engine_with(
        make, program, weights, slots=1, prefill_rows=1, deterministic=deterministic
    )
    prompt = [5, 6, 8, 9, 10]

    async def run():
        async with make.serving(engine):
            with engine.conversation() as conversation, engine.conversation() as other:
                first = await engine.generate(
                    prompt, Limits(4), conversation=conversation
                )
                await engine.generate([7], Limits(2), conversation=other)
                assert conversation.evicted is not None
                busy = asyncio.ensure_future(engine.generate([9], Limits(30)))
                # This turn shares only two tokens with the evicted cache, so only
                # those may be reused afterwards.
                turn = engine.generate([5, 6, 99], Limits(4), conversation=conversation)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(turn, 0.001)
                with engine.conversation() as third:
                    await engine.generate([7], Limits(2), conversation=third)
                again = [*prompt, *first.tokens, 12]
                got = await engine.generate(again, Limits(4), conversation=conversation)
                return again, got, await busy

    again, got, _ = asyncio.run(run())
    assert got.tokens == make.naive(program, weights, None, again, 4)
    slots = engine._scheduler.slots
    assert not any(slots._slots) and not slots._evicted


def test_nothing_is_compiled_at_an_eviction(make, program, weights):
    engine = engine_with(make, program, weights, slots=1, prefill_rows=1, length=64)
    names = []
    engine.compile(names.append)
    copies = (programs.read_slot, programs.write_slot)
    sizes = [program._cache_size() for program in copies]

    async def run():
        async with make.serving(engine):
            with engine.conversation() as one, engine.conversation() as other:
                for conversation in (one, other, one):
                    await engine.generate([5], Limits(2), conversation=conversation)

    asyncio.run(run())
    assert engine.stats.evictions == 2
    assert [program._cache_size() for program in copies] == sizes
    assert any("eviction" in name for name in names)


def test_loading_other_weights_drops_evicted_caches(make, program, weights):
    """A conversation that outlives the load must not reuse the old model's cache."""
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
