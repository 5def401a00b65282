"""Tokens of a decode call that enter the cache at its end, against the naive loop."""

import asyncio

import pytest

from cycleqd_jax.inference.requests import Limits
from cycleqd_jax.models.llama.program import LlamaProgram


@pytest.fixture(scope="module")
def program(tiny_config):
    held = LlamaProgram(tiny_config, attention="dot_product")
    assert held.holds_back and not LlamaProgram(tiny_config).holds_back
    return held


@pytest.mark.parametrize("deterministic", [True, False])
def test_replies_are_those_of_the_naive_loop(
    make, naive, program, weights, population, deterministic
):
    """Replies of other lengths than calls, in more conversations than slots."""
    shape = make.shape.model_copy(
        update={"deterministic": deterministic, "decode_steps": 4}
    )
    engine = make.engine(program, shape)
    engine.load(weights, population)
    prompts = make.prompts(5, 9)
    limits = [1, 3, 4, 5, 11, 30, 8, 40, 2]
    questions = [
        (prompt, i % 3, limit)
        for i, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
    ]
    replies = make.ask(engine, questions, range(9))
    for (messages, individual, limit), reply in zip(questions, replies, strict=True):
        ids = tuple(make.tokenizer().encode_chat(messages))
        want, _ = naive(ids, individual, Limits(limit))
        assert reply.tokens == want


def test_a_second_turn_reads_what_the_first_one_wrote(
    make, naive, program, weights, population
):
    engine = make.engine(program)
    engine.load(weights, population)

    async def talk():
        async with make.serving(engine):
            with engine.conversation(1) as conversation:
                prompt = (5, 9, 31)
                for _ in range(3):
                    reply = await engine.generate(
                        prompt, Limits(5), conversation=conversation
                    )
                    assert reply.tokens == naive(prompt, 1, Limits(5))[0]
                    prompt += (*reply.tokens, 12, 3)

    asyncio.run(talk())
    assert engine.stats.reused_tokens > 10
