"""The engine against a naive loop, whatever arrives when."""

import asyncio
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dialogues import BOTH, engine_with
from forward import full_logits

from cycleqd_jax.chat import Finish
from cycleqd_jax.inference.requests import Limits, Sampling
from cycleqd_jax.models.base import Deltas, LowRank


@BOTH
@pytest.mark.parametrize("seed", range(2))
def test_replies_equal_a_naive_loop_for_every_order_of_arrival(
    make, program, weights, population, seed, deterministic
):
    rng = random.Random(seed)
    questions = [
        (messages, rng.randrange(3), rng.randrange(1, 14))
        for messages in make.prompts(seed, 11)
    ]
    engine = engine_with(
        make, program, weights, population, deterministic=deterministic
    )
    order = list(range(len(questions)))
    got = make.ask(engine, questions, order)
    for (messages, individual, limit), reply in zip(questions, got, strict=True):
        deltas = population.deltas(jnp.array([individual]))
        prompt = engine.encode(messages)
        want = make.naive(program, weights, deltas, prompt, limit)
        assert reply.tokens == want
        assert reply.prompt_tokens == len(prompt)
        stopped = want[-1] in make.tokenizer.stop_ids
        assert reply.finish is (Finish.STOP if stopped else Finish.LENGTH)
        assert reply.text == " ".join(map(str, want[:-1] if stopped else want))
    rng.shuffle(order)
    delays = [rng.random() * 0.05 for _ in order]
    assert make.ask(engine, questions, order, delays) == got
    assert engine.stats.decode_tokens > 0 and 0 < engine.stats.occupancy <= 1


def test_individuals_answer_differently(make, program, weights, population):
    engine = engine_with(make, program, weights, population)
    messages = make.prompts(5, 1)[0]
    replies = make.ask(engine, [(messages, i, 12) for i in range(3)], [0, 1, 2])
    assert len({reply.tokens for reply in replies}) == 3


async def talk(engine, first, turns, individual=0, pause=0.0):
    """A dialogue in token ids: each turn adds the reply and three more tokens."""
    prompt, replies = list(first), []
    with engine.conversation(individual) as conversation:
        for turn in range(turns):
            reply = await engine.generate(
                prompt, Limits(4), conversation=conversation, logprobs=True
            )
            replies.append(reply)
            prompt = [*prompt, *reply.tokens, 11 + turn, 12, 13]
            await asyncio.sleep(pause)
    return replies


@BOTH
def test_a_new_turn_computes_only_what_is_new(make, program, weights, deterministic):
    engine = engine_with(make, program, weights, deterministic=deterministic)
    first = [5, 9, 23, 44, 17, 8, 31, 60, 71, 3]

    async def run():
        async with make.serving(engine):
            return await talk(engine, first, 4)

    replies = asyncio.run(run())
    prompt = list(first)
    for turn, reply in enumerate(replies):
        assert reply.tokens == make.naive(program, weights, None, prompt, 4)
        if turn:  # the last token of a reply was not computed before
            held = len(prompt) - 4
            assert reply.reused_tokens == held
        prompt = [*prompt, *reply.tokens, 11 + turn, 12, 13]
    total = sum(reply.prompt_tokens for reply in replies)
    reused = sum(reply.reused_tokens for reply in replies)
    assert engine.stats.prefill_tokens == total - reused
    assert engine.stats.reused_tokens == reused


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_conversation_that_lost_its_slot_goes_on_the_same(
    make, program, weights, deterministic
):
    """Seven dialogues in two slots: the waiting ones are evicted and restored."""
    engine = engine_with(make, program, weights, slots=2, deterministic=deterministic)
    alone = engine_with(make, program, weights, slots=8)
    starts = [[5 + i, 9, 23 + i, 44, 17] for i in range(7)]

    async def run(engine, pause):
        async with make.serving(engine):
            return await asyncio.gather(
                *(talk(engine, first, 3, pause=pause) for first in starts)
            )

    got, want = asyncio.run(run(engine, 0.05)), asyncio.run(run(alone, 0.0))
    assert engine.stats.evictions > 0 and alone.stats.evictions == 0
    for one, other in zip(got, want, strict=True):
        assert [r.tokens for r in one] == [r.tokens for r in other]
        assert [r.reused_tokens for r in one] == [r.reused_tokens for r in other]


def test_a_rewritten_history_is_computed_again_from_where_it_differs(
    make, program, weights
):
    engine = engine_with(make, program, weights)

    async def run():
        async with make.serving(engine):
            with engine.conversation() as conversation:
                await engine.generate(
                    [5, 6, 8, 9, 10], Limits(3), conversation=conversation
                )
                return await engine.generate(
                    [5, 6, 8, 99, 10, 12], Limits(3), conversation=conversation
                )

    reply = asyncio.run(run())
    assert reply.reused_tokens == 3
    want = make.naive(program, weights, None, [5, 6, 8, 99, 10, 12], 3)
    assert reply.tokens == want


@BOTH
def test_scores_are_those_of_a_full_pass(make, program, weights, deterministic):
    engine = engine_with(make, program, weights, deterministic=deterministic)
    rng = random.Random(0)
    texts = [[rng.randrange(160) for _ in range(n)] for n in (2, 9, 17, 30, 49)]
    starts = [1, 4, 16, 3, 20]

    async def run():
        async with make.serving(engine):
            asked = zip(texts, starts, strict=True)
            return await asyncio.gather(*(engine.score(t, s) for t, s in asked))

    for text, start, got in zip(texts, starts, asyncio.run(run()), strict=True):
        logits = np.asarray(full_logits(program, weights, np.asarray([text])))[0]
        shares = jax.nn.log_softmax(logits[start - 1 : -1].astype(np.float64))
        want = [float(row[t]) for row, t in zip(shares, text[start:], strict=True)]
        np.testing.assert_allclose(got.logprobs, want, atol=1e-4)
        assert got.logprob == pytest.approx(sum(want), abs=1e-3)
        best = np.argmax(np.asarray(shares), -1)
        assert list(got.greedy) == (best == text[start:]).tolist()


def test_log_probabilities_of_a_reply(make, program, weights):
    engine = engine_with(make, program, weights)

    async def run():
        async with make.serving(engine):
            return await engine.generate([5, 6, 8], Limits(9), logprobs=True)

    reply = asyncio.run(run())
    text = [5, 6, 8, *reply.tokens]
    logits = np.asarray(full_logits(program, weights, np.asarray([text])))[0][2:-1]
    shares = np.asarray(jax.nn.log_softmax(logits))
    np.testing.assert_allclose(reply.logprobs, shares.max(-1), atol=1e-4)


def test_draws_depend_on_the_seed_alone(make, program, weights):
    sampling = [Sampling(temperature=0.8, top_k=20, seed=seed) for seed in (1, 2, 1)]
    prompt = [5, 6, 8]

    async def run(engine, crowd):
        async with make.serving(engine):
            others = [engine.generate([7 + i, 9], Limits(9)) for i in range(crowd)]
            asked = [engine.generate(prompt, Limits(9), sampling=s) for s in sampling]
            return (await asyncio.gather(*others, *asked))[crowd:]

    got = asyncio.run(run(engine_with(make, program, weights), 0))
    assert got[0] == got[2] and got[0].tokens != got[1].tokens
    assert asyncio.run(run(engine_with(make, program, weights), 6)) == got


def test_stop_strings_end_a_reply_across_tokens(make, program, weights):
    prompt = [5, 6, 8]
    whole = make.naive(program, weights, None, prompt, 12)
    text = " ".join(map(str, whole))
    cut = text.index(" ", len(text) // 2)
    stop = text[
        cut - 1 : cut + 2
    ]  # the end of one token, a blank, the next one's start
    engine = engine_with(make, program, weights)

    async def run():
        async with make.serving(engine):
            return await engine.generate(prompt, Limits(12, (stop, "nowhere")))

    reply = asyncio.run(run())
    assert reply.finish is Finish.STOP
    assert reply.text == text[: text.index(stop)]
    shown = " ".join(map(str, reply.tokens))
    assert stop in shown and stop not in " ".join(map(str, reply.tokens[:-1]))


def test_a_cancelled_request_gives_its_slot_back(make, program, weights):
    engine = engine_with(make, program, weights, slots=1, prefill_rows=1)

    async def run():
        async with make.serving(engine):
            given_up = asyncio.ensure_future(engine.generate([5, 6], Limits(40)))
            waiting = asyncio.ensure_future(engine.generate([7, 8], Limits(3)))
            dropped = asyncio.ensure_future(engine.generate([9, 8], Limits(3)))
            await asyncio.sleep(0.05)
            given_up.cancel()
            dropped.cancel()
            return await asyncio.wait_for(waiting, 60)

    reply = asyncio.run(run())
    assert reply.tokens == make.naive(program, weights, None, [7, 8], 3)
    assert not engine._scheduler.slots.active


def test_individuals_come_and_go_while_others_run(make, program, weights, population):
    """Row 1 becomes another individual while row 0 is under way."""
    engine = engine_with(make, program, weights, population)
    other = jax.tree.map(lambda t: t.at[1].set(t[2]), population.coefficients)
    vectors = jax.tree.map(lambda t: t.at[1].set(t[2]), population.vectors)
    changed = population.replace(coefficients=other, vectors=vectors)

    async def run():
        async with make.serving(engine):
            long = asyncio.ensure_future(engine.generate([5, 6], Limits(40)))
            await asyncio.sleep(0.01)
            engine.replace(changed)
            return await engine.generate([5, 6], Limits(9), individual=1), await long

    new, long = asyncio.run(run())
    deltas = population.deltas(jnp.array([2]))
    assert new.tokens == make.naive(program, weights, deltas, [5, 6], 9)
    deltas = population.deltas(jnp.array([0]))
    assert long.tokens == make.naive(program, weights, deltas, [5, 6], 40)


def test_a_row_has_the_same_bits_in_every_place_beside_every_neighbour(
    program, weights, population
):
    """What `deterministic` rests on: one program shape, any place, any neighbours."""
    tokens = np.random.default_rng(3).integers(0, 160, (4, 8), np.int32)
    run = jax.jit(lambda t, d: full_logits(program, weights, t, d))
    coefficients = population.deltas(jnp.array([0, 1, 2, 0]))
    want = np.asarray(run(tokens, coefficients))
    for turn in range(1, 4):
        at = np.roll(np.arange(4), turn)
        got = run(tokens[at], population.deltas(jnp.array([0, 1, 2, 0])[at]))
        np.testing.assert_array_equal(np.asarray(got), want[at])


def test_a_failing_device_call_reaches_the_caller(make, program, weights):
    engine = engine_with(make, program, weights | {"model.norm.weight": jnp.ones(3)})
    with pytest.raises(ValueError, match="shapes"):
        make.ask(engine, [(make.prompts(0, 1)[0], 0, 4)], [0])


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
    want = full_logits(program, weights | {name: weights[name] + 0.5 * u @ v.T}, tokens)
    np.testing.assert_allclose(
        full_logits(program, weights, tokens, deltas), want, atol=1e-4
    )
