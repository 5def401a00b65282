"""What the scheduler promises, whatever arrives, ends or is given up when."""

import asyncio
import contextlib

import pytest
from dialogues import BOTH, LENGTH, engine_with

from cycleqd_jax.inference.requests import Limits, RequestError


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
            engine._device._take_cache()  # donated, then lost
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
