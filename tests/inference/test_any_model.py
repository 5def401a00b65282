"""The engine with a model of no known family: it needs nothing but the protocol."""

import asyncio
import random

import jax.numpy as jnp
import numpy as np
import pytest
from dialogues import engine_with
from summing_lm import SHIFT, SummingLM, next_tokens

from cycleqd_jax.inference.population import Population
from cycleqd_jax.inference.requests import Limits

SHIFTS = (0, 5, 31)  # of three individuals, beside the shared weight
WEIGHT = 2


@pytest.fixture
def engine(make):
    population = Population(vectors={SHIFT: jnp.array(SHIFTS, float)[:, None]})
    weights = {SHIFT: jnp.array([float(WEIGHT)])}
    return engine_with(make, SummingLM(), weights, population, slots=2)


def test_dialogues_of_three_individuals_in_two_slots(make, engine):
    """More dialogues than slots, so rows are set aside, put back and reused."""
    rng = random.Random(0)

    async def talk(individual):
        with engine.conversation(individual) as conversation:
            prompt, pairs = [], []
            for _ in range(3):
                prompt += [rng.randrange(1, 90) for _ in range(rng.randrange(1, 7))]
                reply = await engine.generate(
                    prompt, Limits(4), conversation=conversation
                )
                shift = WEIGHT + SHIFTS[individual]
                want = next_tokens(prompt, shift, 4, make.tokenizer.stop_ids)
                pairs.append((reply.tokens, want))
                prompt += reply.tokens
                await asyncio.sleep(0.05)  # time in which another takes the slot
            return pairs

    async def all_of_them():
        async with make.serving(engine):
            return await asyncio.gather(*(talk(i % 3) for i in range(7)))

    for pairs in asyncio.run(all_of_them()):
        for got, want in pairs:
            assert got == want
    assert engine.stats.evictions > 0 and engine.stats.reused_tokens > 0


def test_scores_are_those_of_the_whole_pass(make, engine):
    program, text = SummingLM(), [3, 50, 61, 4, 8, 20, 33, 1, 9, 41, 2]

    async def score():
        async with make.serving(engine):
            return await engine.score(text, 2, individual=1)

    scored = asyncio.run(score())
    weights = {SHIFT: jnp.array([float(WEIGHT + SHIFTS[1])])}
    hidden = program.hidden(weights, jnp.array([text]))
    logits = np.asarray(program.logits(weights, hidden))[0]
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    want = [logprobs[i - 1, token] for i, token in enumerate(text)][2:]
    np.testing.assert_allclose(scored.logprobs, want, rtol=1e-5)
