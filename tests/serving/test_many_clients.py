"""Many clients, of which some go away at any moment: nothing leaks, none starves.

The slow test goes on for 10 seconds, or for those that CYCLEQD_CROWD_S gives (`make
prove-serving` gives 60).
"""

import asyncio
import gc
import os
import pathlib
import random
import statistics
import threading
import time

import openai
import pytest
import served
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from cycleqd_jax.serving.replies import Job, _Live
from cycleqd_jax.serving.tickets import Ticket

CLIENTS = 64
MOST_THREADS = 40  # asyncio's pool of 32 at most, and those that serve
MOST_GROWTH = 64 * 2**20  # bytes; what is kept of a request would be far more
LONG_S = float(os.environ.get("CYCLEQD_CROWD_S", "10"))


@pytest.mark.parametrize("seconds", [0, pytest.param(LONG_S, marks=pytest.mark.slow)])
def test_random_cancels_leave_nothing_behind(toy_run, seconds):
    async def tasks(request):
        return PlainTextResponse(str(len(asyncio.all_tasks())))

    with served.serving(toy_run, [Route("/tasks", tasks)], max_waiting=200) as there:
        models = list(there.app.state.catalogue.models())
        if not seconds:  # these are loaded alone, which takes its time
            models = [name for name in models if not name.startswith("trained_expert")]
        else:  # the memory of the first crowd is kept for all others
            asyncio.run(_crowd(f"{there.url}/v1", models, 0))
        idle, resident = int(there.get("/tasks")[1]), _resident()
        threads, sockets = threading.active_count(), _sockets()
        before = sum(_requests(there).values())
        asked = asyncio.run(_crowd(f"{there.url}/v1", models, seconds))
        ended = [end for own in asked for end, _ in own]
        there.wait_until(lambda: there.metric("cycleqd_replies_running") == 0)
        assert there.metric("cycleqd_slots_taken") == 0
        assert there.metric("cycleqd_replies_waiting") == 0
        assert len(ended) >= CLIENTS * 2
        answered, gone = ended.count("answered"), ended.count("gone")
        assert answered + gone == len(ended) and answered > 10 and gone > 10
        desk = there.app.state.desk
        there.wait_until(lambda: desk._taken == 0)
        assert not any(row.users for row in desk._rows)
        # An answer may have been on its way when its client went, and some clients went
        # before they had sent anything.
        counted = _requests(there)
        assert counted["200"] >= answered and set(counted) <= {"200", "499"}
        assert sum(counted.values()) - before <= len(ended)
        assert threading.active_count() <= threads + MOST_THREADS
        there.wait_until(lambda: _sockets() <= sockets, seconds=20)
        there.wait_until(lambda: int(there.get("/tasks")[1]) <= idle, seconds=20)
        status, _ = there.post(
            "/v1/completions", {"model": "base", "prompt": "a", "max_tokens": 1}
        )
        assert status == 200
        gc.collect()
        # By type: `isinstance` looks into objects of other libraries, which may warn.
        kept = [o for o in gc.get_objects() if type(o) in (Ticket, Job, _Live)]
        assert len(kept) <= desk.seats  # the last calls may hold some, not hundreds
        if seconds:
            grown = _resident() - resident
            assert grown < MOST_GROWTH
            print(f"\n{seconds:g} s, memory {grown / 2**20:+.1f} MB, {_waits(asked)}")


def _waits(asked: list[list[tuple[str, float]]]) -> str:
    """Fails if somebody waited far longer than others; returns the numbers."""
    waits = [wait for own in asked for end, wait in own if end == "answered"]
    median, longest = statistics.median(waits), max(waits)
    assert longest < 8 * median  # first come, first served
    answers = [sum(end == "answered" for end, _ in own) for own in asked]
    assert min(answers) > 0
    return (
        f"{sum(map(len, asked))} requests, {len(waits)} answered, {min(answers)} to "
        f"{max(answers)} of a client; waits: median {median:.2f} s, longest "
        f"{longest:.2f} s"
    )


def _resident() -> int:
    """Bytes of this process's memory."""
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _sockets() -> int:
    """Open sockets of this process."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        path = pathlib.Path("/proc/self/fd", number)
        found += path.is_socket()
    return found


def _requests(there) -> dict[str, int]:
    """Status -> number of requests that asked a model."""
    start, counts = 'cycleqd_requests_total{path="/v1/chat/completions",status="', {}
    for line in there.get("/metrics")[1].splitlines():
        if line.startswith(start):
            status, _, count = line.removeprefix(start).partition('"} ')
            counts[status] = int(count)
    return counts


async def _crowd(
    url: str, models: list[str], seconds: float
) -> list[list[tuple[str, float]]]:
    """Per client the ends and seconds of its requests: two at least."""
    # A busy machine may take seconds to take a connection.
    options = {"base_url": url, "api_key": "-", "max_retries": 0, "timeout": 600}
    async with openai.AsyncOpenAI(**options) as client:
        last = time.monotonic() + seconds

        async def one(rng: random.Random) -> list[tuple[str, float]]:
            found = []
            while len(found) < 2 or time.monotonic() < last:
                start = time.monotonic()
                end = await _ask(client, models, rng)
                found.append((end, time.monotonic() - start))
            return found

        crowd = (one(random.Random(i)) for i in range(CLIENTS))
        return await asyncio.gather(*crowd)


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
