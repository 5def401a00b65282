"""A tiny model with random weights, a population of it, and a naive loop."""

import asyncio
import contextlib
import functools
import random
import types

import jax
import jax.numpy as jnp
import numpy as np
import populations
import pytest
from forward import full_logits

from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.requests import Limits
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.models.llama.program import LlamaProgram

SHAPE = EngineSettings(
    slots=4, length=48, prefill_rows=2, prefill_chunk=8, decode_steps=3
)


class NumberTokenizer:
    """Messages are numbers written out; id 0 ends a reply."""

    stop_ids = (0, 7)

    def encode_chat(self, messages):
        return [int(token) for m in messages for token in m["content"].split()]

    def decode(self, ids):
        return " ".join(map(str, ids))


@pytest.fixture(scope="module")
def program(tiny_config):
    return LlamaProgram(tiny_config)


@pytest.fixture(scope="module")
def weights(program):
    shapes = program.config.weight_shapes()
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return {
        name: 0.3 * jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


@pytest.fixture(scope="module")
def population(weights):
    """Three individuals that differ in every matrix and every norm."""
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    matrices = {n: w for n, w in weights.items() if w.ndim == 2}
    vectors = {n: w for n, w in weights.items() if w.ndim == 1}
    return populations.from_tables(
        u={n: 0.2 * draw(w.shape[0], 5) for n, w in matrices.items()},
        v={n: 0.2 * draw(w.shape[1], 5) for n, w in matrices.items()},
        coefficients={n: draw(3, 5) for n in matrices},
        vectors={n: 0.2 * draw(3, *w.shape) for n, w in vectors.items()},
    )


def prompts_of(seed: int, count: int) -> list[list[dict[str, str]]]:
    rng = random.Random(seed)
    return [
        [
            {
                "role": "user",
                "content": " ".join(
                    str(rng.randrange(1, 160)) for _ in range(rng.randrange(1, 30))
                ),
            }
        ]
        for _ in range(count)
    ]


def naive(program, weights, deltas, prompt, limit):
    """One sequence at a time, the whole forward pass for every token."""
    ids, new = list(prompt), []
    while len(new) < limit:
        padded = np.zeros((1, SHAPE.length), np.int32)
        padded[0, : len(ids)] = ids
        logits = full_logits(program, weights, padded, deltas)
        token = int(np.argmax(logits[0, len(ids) - 1]))
        ids.append(token)
        new.append(token)
        if token in NumberTokenizer.stop_ids:
            break
    return tuple(new)


@pytest.fixture(scope="module", name="naive")
def naive_replies(program, weights, population):
    """One sequence at a time, every token by a pass over the whole text."""
    forward = jax.jit(
        lambda t, i: full_logits(program, weights, t, population.deltas(i))
    )

    @functools.cache
    def reply(prompt, individual, limits):
        new = []
        room = min(limits.max_new_tokens, SHAPE.length - len(prompt))
        while len(new) < room:
            text = np.zeros((1, SHAPE.length), np.int32)
            ids = [*prompt, *new]
            text[0, : len(ids)] = ids
            logits = forward(text, jnp.array([individual]))
            new.append(int(np.argmax(logits[0, len(ids) - 1])))
            stopped = new[-1] in NumberTokenizer.stop_ids
            shown = " ".join(map(str, new[:-1] if stopped else new))
            places = [shown.find(stop) for stop in limits.stop_strings]
            if any(place >= 0 for place in places):
                return tuple(new), shown[: min(p for p in places if p >= 0)]
            if stopped:
                break
        return tuple(new), shown

    return reply


@contextlib.asynccontextmanager
async def serving(engine):
    """The engine serves as long as the body runs."""
    server = asyncio.ensure_future(engine.serve())
    body = asyncio.current_task()

    def failed(task):
        body.cancel()

    server.add_done_callback(failed)
    try:
        yield
    except asyncio.CancelledError:
        server.result()
        raise
    finally:
        server.remove_done_callback(failed)
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)


def ask(engine, questions, order, delays=None):
    """Replies to (messages, individual, limit) questions that arrive in an order."""

    async def one(i):
        if delays is not None:
            await asyncio.sleep(delays[i])
        messages, individual, limit = questions[i]
        prompt = engine.encode(messages)
        return await engine.generate(prompt, Limits(limit), individual=individual)

    async def all_of_them():
        server = asyncio.ensure_future(engine.serve())
        tasks = {i: asyncio.ensure_future(one(i)) for i in order}
        done = asyncio.gather(*tasks.values())
        await asyncio.wait({server, done}, return_when="FIRST_COMPLETED")
        if server.done():
            server.result()
        await done
        server.cancel()
        return [tasks[i].result() for i in range(len(questions))]

    return asyncio.run(all_of_them())


@pytest.fixture(scope="session")
def make():
    """The builders above, as one object."""
    return types.SimpleNamespace(
        shape=SHAPE,
        tokenizer=NumberTokenizer,
        prompts=prompts_of,
        naive=naive,
        ask=ask,
        serving=serving,
        engine=lambda program, shape=SHAPE, **kw: Engine(
            program, NumberTokenizer(), shape, **kw
        ),
    )
