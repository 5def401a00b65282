"""The most likely tokens in each place, and replies that are heard as they grow."""

import asyncio

import jax.numpy as jnp
import numpy as np
import pytest
from dialogues import engine_with
from forward import full_logits

from cycleqd_jax.inference.requests import Limits, RequestError, Sampling

PROMPT = (5, 6, 8, 40, 41, 90, 3, 3, 12, 77, 21)


def expected(program, weights, population, tokens, individual):
    """Log-probabilities `[L, V]` after each token, by one plain pass."""
    deltas = population.deltas(jnp.array([individual]))
    logits = full_logits(program, weights, np.array([tokens], np.int32), deltas)[0]
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("num_top", [1, 4])
def test_the_most_likely_tokens(make, program, weights, population, num_top):
    engine = engine_with(make, program, weights, population)
    options = {"individual": 2, "num_top": num_top}

    async def run():
        async with make.serving(engine):
            plain, scored, other = await asyncio.gather(
                engine.generate(PROMPT, Limits(7), logprobs=True, **options),
                engine.score(PROMPT, 3, **options),
                engine.generate(PROMPT, Limits(7), individual=2),
            )
            with pytest.raises(RequestError, match="num_top"):
                await engine.generate(PROMPT, Limits(7), num_top=161)
            return plain, scored, other

    reply, scored, other = asyncio.run(run())
    assert reply.tokens == other.tokens and other.top == ()
    whole = expected(program, weights, population, (*PROMPT, *reply.tokens), 2)
    start = len(PROMPT) - 1
    for tokens, logprobs, top, first in [
        (reply.tokens, reply.logprobs, reply.top, start),
        (PROMPT[3:], scored.logprobs, scored.top, 2),
    ]:
        assert len(tokens) == len(logprobs) == len(top)
        for i, places in enumerate(top):
            want = whole[first + i]
            best = np.argsort(-want)[:num_top]
            assert [token for token, _ in places] == best.tolist()
            assert [p for _, p in places] == pytest.approx(want[best], abs=1e-4)
            assert logprobs[i] == pytest.approx(want[tokens[i]], abs=1e-4)
            own = dict(places).get(tokens[i])
            assert own is None or own == pytest.approx(logprobs[i], abs=1e-6)


def test_a_reply_is_heard_as_it_grows(make, program, weights):
    engine = engine_with(make, program, weights)
    heard = []

    async def run():
        async with make.serving(engine):
            return await engine.generate(
                PROMPT,
                Limits(20),
                sampling=Sampling(1.0, seed=11),
                logprobs=True,
                num_top=2,
                heard=lambda *news: heard.append(tuple(map(tuple, news))),
            )

    reply = asyncio.run(run())
    assert len(heard) >= 2
    lengths = [len(tokens) for tokens, *_ in heard]
    assert lengths == sorted(set(lengths)) and lengths[-1] < len(reply.tokens)
    for tokens, logprobs, top in heard:
        count = len(tokens)
        assert tokens == reply.tokens[:count]
        assert logprobs == reply.logprobs[:count] and top == reply.top[:count]
