"""The engine against a naive loop, whatever the order of arrival."""

import asyncio
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cycleqd_jax.inference.engine import Engine, EngineShape
from cycleqd_jax.inference.programs import Population
from cycleqd_jax.models.llama import Deltas, LlamaProgram, LowRank
from cycleqd_jax.tasks.base import Finish

SHAPE = EngineShape(slots=4, length=48, prefill_rows=2, prefill_chunk=8, decode_steps=3)


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
    shapes = program.weight_shapes()
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return {
        name: 0.3 * jax.random.normal(key, shape.shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


@pytest.fixture(scope="module")
def population(weights):
    """Three individuals that differ in every matrix and every norm."""
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    matrices = {n: w for n, w in weights.items() if w.ndim == 2}
    vectors = {n: w for n, w in weights.items() if w.ndim == 1}
    return Population(
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
    forward = jax.jit(program.full)
    while len(new) < limit:
        padded = np.zeros((1, SHAPE.length), np.int32)
        padded[0, : len(ids)] = ids
        token = int(np.argmax(forward(weights, padded, deltas)[0, len(ids) - 1]))
        ids.append(token)
        new.append(token)
        if token in NumberTokenizer.stop_ids:
            break
    return tuple(new)


def ask(engine, questions, order, delays=None):
    """Replies to (messages, individual, limit) questions that arrive in an order."""

    async def one(i):
        if delays is not None:
            await asyncio.sleep(delays[i])
        messages, individual, limit = questions[i]
        return await engine.chat(messages, individual=individual, max_new_tokens=limit)

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


@pytest.mark.parametrize("seed", range(2))
def test_replies_equal_a_naive_loop_for_every_order_of_arrival(
    program, weights, population, seed
):
    rng = random.Random(seed)
    questions = [
        (messages, rng.randrange(3), rng.randrange(1, 14))
        for messages in prompts_of(seed, 11)
    ]
    engine = Engine(program, NumberTokenizer(), SHAPE)
    engine.load(weights, population)
    order = list(range(len(questions)))
    got = ask(engine, questions, order)
    for (messages, individual, limit), reply in zip(questions, got, strict=True):
        deltas = population.deltas(jnp.array([individual]))
        prompt = engine._tokenizer.encode_chat(messages)
        want = naive(program, weights, deltas, prompt, limit)
        assert reply.tokens == want
        assert reply.prompt_tokens == len(prompt)
        stopped = want[-1] in NumberTokenizer.stop_ids
        assert reply.finish is (Finish.STOP if stopped else Finish.LENGTH)
        assert reply.text == " ".join(map(str, want[:-1] if stopped else want))
    rng.shuffle(order)
    delays = [rng.random() * 0.05 for _ in order]
    assert ask(engine, questions, order, delays) == got


def test_individuals_answer_differently(program, weights, population):
    engine = Engine(program, NumberTokenizer(), SHAPE)
    engine.load(weights, population)
    messages = prompts_of(5, 1)[0]
    replies = ask(engine, [(messages, i, 12) for i in range(3)], [0, 1, 2])
    assert len({reply.tokens for reply in replies}) == 3


def test_a_conversation_that_is_too_long_gets_an_empty_reply(program, weights):
    engine = Engine(program, NumberTokenizer(), SHAPE)
    engine.load(weights)
    full = [{"role": "user", "content": " ".join(["5"] * SHAPE.length)}]
    nearly = [{"role": "user", "content": " ".join(["5"] * (SHAPE.length - 2))}]
    none, two = ask(engine, [(full, 0, 9), (nearly, 0, 9)], [0, 1])
    assert (none.text, none.finish) == ("", Finish.LENGTH)
    assert len(two.tokens) <= 2


def test_a_row_has_the_same_bits_in_every_place_beside_every_neighbour(
    program, weights, population
):
    """What `deterministic` rests on: one program shape, any place, any neighbours."""
    tokens = np.random.default_rng(3).integers(0, 160, (4, 8), np.int32)
    run = jax.jit(lambda t, d: program.full(weights, t, d))
    coefficients = population.deltas(jnp.array([0, 1, 2, 0]))
    want = np.asarray(run(tokens, coefficients))
    for turn in range(1, 4):
        at = np.roll(np.arange(4), turn)
        got = run(tokens[at], population.deltas(jnp.array([0, 1, 2, 0])[at]))
        np.testing.assert_array_equal(np.asarray(got), want[at])


def test_a_failing_device_call_reaches_the_caller(program, weights):
    engine = Engine(program, NumberTokenizer(), SHAPE)
    engine.load(weights | {"model.norm.weight": jnp.ones(3)})
    with pytest.raises(ValueError, match="shapes"):
        ask(engine, [(prompts_of(0, 1)[0], 0, 4)], [0])


def test_low_rank_deltas_of_one_row_serve_all_rows(program, weights):
    """Training adds the same factors to every row of a batch."""
    rng = np.random.default_rng(4)
    name = "model.layers.0.mlp.up_proj.weight"
    out, fan_in = weights[name].shape
    u, v = (
        jnp.asarray(rng.standard_normal((n, 2)), jnp.float32) for n in (out, fan_in)
    )
    deltas = Deltas({name: LowRank(u, v, jnp.full((1, 2), 0.5))})
    tokens = rng.integers(0, 160, (3, 6), np.int32)
    want = program.full(weights | {name: weights[name] + 0.5 * u @ v.T}, tokens)
    np.testing.assert_allclose(program.full(weights, tokens, deltas), want, atol=1e-4)
