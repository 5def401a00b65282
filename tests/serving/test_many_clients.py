"""Many clients, of which some go away at any moment: nothing leaks, none starves."""

import asyncio
import random
import statistics
import threading
import time

import openai
import pytest
import served

CLIENTS = 64
MOST_THREADS = 40  # asyncio's pool of 32 at most, and those that serve


@pytest.mark.parametrize("rounds", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_random_cancels_leave_nothing_behind(toy_run, rounds):
    with served.serving(toy_run, max_waiting=200) as there:
        models = list(there.app.state.catalogue.models())
        if rounds == 2:  # these are loaded alone, which takes its time
            models = [name for name in models if not name.startswith("trained_expert")]
        threads = threading.active_count()
        asked = asyncio.run(_crowd(f"{there.url}/v1", models, rounds))
        ended = [end for end, _ in asked]
        there.wait_until(lambda: there.metric("cycleqd_replies_running") == 0)
        assert there.metric("cycleqd_slots_taken") == 0
        assert there.metric("cycleqd_replies_waiting") == 0
        assert len(ended) == CLIENTS * rounds
        answered, gone = ended.count("answered"), ended.count("gone")
        assert answered + gone == len(ended) and answered > 10 and gone > 10
        desk = there.app.state.desk
        there.wait_until(lambda: desk._taken == 0)
        assert not any(row.users for row in desk._rows)
        # An answer may have been on its way when its client went, and some clients went
        # before they had sent anything.
        counted = _requests(there)
        assert counted["200"] >= answered and set(counted) <= {"200", "499"}
        assert sum(counted.values()) <= len(ended)
        assert threading.active_count() <= threads + MOST_THREADS
        if rounds > 2:  # first come, first served: nobody waits much longer than others
            waits = [seconds for end, seconds in asked if end == "answered"]
            assert max(waits) < 8 * statistics.median(waits)
        status, _ = there.post(
            "/v1/completions", {"model": "base", "prompt": "a", "max_tokens": 1}
        )
        assert status == 200


def _requests(there) -> dict[str, int]:
    """Status -> number of requests that asked a model."""
    start, counts = 'cycleqd_requests_total{path="/v1/chat/completions",status="', {}
    for line in there.get("/metrics")[1].splitlines():
        if line.startswith(start):
            status, _, count = line.removeprefix(start).partition('"} ')
            counts[status] = int(count)
    return counts


async def _crowd(url: str, models: list[str], rounds: int) -> list[tuple[str, float]]:
    async with openai.AsyncOpenAI(base_url=url, api_key="-", max_retries=0) as client:

        async def one(rng: random.Random) -> list[tuple[str, float]]:
            found = []
            for _ in range(rounds):
                start = time.monotonic()
                end = await _ask(client, models, rng)
                found.append((end, time.monotonic() - start))
            return found

        crowd = (one(random.Random(i)) for i in range(CLIENTS))
        return [end for ends in await asyncio.gather(*crowd) for end in ends]


async def _ask(client, models: list[str], rng: random.Random) -> str:
    """One request, whole or streamed, which its client may leave."""
    patience = rng.choice([None, None, rng.uniform(0, 1.5)])
    options = {
        "model": rng.choice(models),
        "messages": [{"role": "user", "content": "word " * rng.randrange(1, 20)}],
        "max_tokens": rng.randrange(1, 24),
        "temperature": 0.0,
        "n": rng.choice([1, 1, 2]),
    }

    async def whole() -> None:
        await client.chat.completions.create(**options)

    async def streamed() -> None:
        async for _ in await client.chat.completions.create(**options, stream=True):
            pass

    try:
        async with asyncio.timeout(patience):
            await rng.choice([whole, streamed])()
        return "answered"
    except TimeoutError:
        return "gone"
