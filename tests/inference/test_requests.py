"""What is refused, for that request alone."""

import asyncio
import math

import numpy as np
import pytest
from dialogues import engine_with

from cycleqd_jax.inference.requests import (
    Limits,
    NotFiniteError,
    RequestError,
    Sampling,
)
from cycleqd_jax.models.base import EMBEDDING


def test_tokens_that_are_not_in_the_vocabulary_are_refused(make, program, weights):
    engine = engine_with(make, program, weights)

    async def run():
        async with make.serving(engine):
            return await asyncio.gather(
                engine.generate([5, 160], Limits(2)),
                engine.generate([-1, 5], Limits(2)),
                engine.score([5, 6, 999], 1),
                return_exceptions=True,
            )

    for error in asyncio.run(run()):
        assert isinstance(error, RequestError) and "0 to 159" in str(error)


def test_bad_requests_fail_alone(make, program, weights, population):
    engine = engine_with(make, program, weights, population)
    fine = [5, 6, 8]

    async def run():
        async with make.serving(engine):
            return await asyncio.gather(
                engine.generate(fine, Limits(4)),
                engine.generate([], Limits(4)),
                engine.generate([5] * 48, Limits(4)),
                engine.generate(fine, Limits(4), individual=3),
                engine.generate(fine, Limits(4), individual=-1),
                engine.score([5, 6], 2),
                engine.score([5] * 50, 3),
                engine.generate(fine, Limits(4)),
                return_exceptions=True,
            )

    first, *bad, last = asyncio.run(run())
    assert first == last and len(first.tokens) > 0
    words = ["one token", "no room", "expected 0 to 2", "expected 0 to 2", "start",
             "more than"]  # fmt: skip
    for error, word in zip(bad, words, strict=True):
        assert isinstance(error, RequestError) and word in str(error)


def generate(prompt=(5,), limit=2, stops=(), individual=0, **sampling):
    """A question to an engine, whose values are looked at when it is asked."""

    def ask(engine):
        return engine.generate(
            prompt,
            Limits(limit, stops),
            individual=individual,
            sampling=Sampling(**sampling),
        )

    return ask


BAD = {
    "token": (generate([5, 6.5]), "prompt: expected a whole number, got 6.5"),
    "text": (generate("56"), "prompt: expected a whole number, got '5'"),
    "individual": (generate(individual=1.5), "individual: expected a whole number"),
    "bool": (generate(individual=True), "individual: expected a whole number"),
    "start": (lambda e: e.score([5, 6, 7], 1.5), "start: expected a whole number"),
    "score": (lambda e: e.score([], 1), "tokens: expected at least one token"),
    "limit": (generate(limit=2.5), "max_new_tokens: expected a whole number"),
    "limit_nan": (generate(limit=math.nan), "max_new_tokens: expected a whole number"),
    "limit_0": (generate(limit=0), "max_new_tokens: expected at least 1"),
    "stop_number": (generate(stops=("a", 5)), "stop_strings: expected a tuple"),
    "stop_empty": (generate(stops=("",)), "stop_strings: expected a tuple"),
    "stop_text": (generate(stops="ab"), "stop_strings: expected a tuple"),
    "temperature_nan": (generate(temperature=math.nan), "temperature: expected 0 to"),
    "temperature_inf": (generate(temperature=math.inf), "temperature: expected 0 to"),
    "temperature": (generate(temperature=-0.1), "temperature: expected 0 to"),
    "top_k": (generate(top_k=-1), "top_k: expected 0 to"),
    "top_k_half": (generate(top_k=2.5), "top_k: expected a whole number"),
    "top_k_large": (generate(top_k=2**31), "top_k: expected 0 to"),
    "top_p": (generate(top_p=0.0), "top_p: expected above 0"),
    "top_p_nan": (generate(top_p=math.nan), "top_p: expected above 0"),
    "seed": (generate(seed=-1), "seed: expected 0 to"),
    "seed_half": (generate(seed=1.5), "seed: expected a whole number"),
    "seed_large": (generate(seed=2**32), "seed: expected 0 to"),
}


@pytest.mark.parametrize("name", BAD)
def test_values_that_are_not_allowed_reach_no_device_call(make, program, weights, name):
    """Each is refused by itself; what runs beside it goes on."""
    bad, words = BAD[name]
    engine = engine_with(make, program, weights)

    async def run():
        async with make.serving(engine):
            asked = engine.generate([5, 6], Limits(3))

            async def wrong():
                return await bad(engine)

            return await asyncio.gather(asked, wrong(), return_exceptions=True)

    fine, error = asyncio.run(run())
    assert fine.tokens == make.naive(program, weights, None, [5, 6], 3)
    assert isinstance(error, ValueError) and words in str(error)


def test_numbers_of_arrays_are_as_good_as_others(make, program, weights, population):
    engine = engine_with(make, program, weights, population)

    async def run():
        async with make.serving(engine):
            return await asyncio.gather(
                engine.generate([5, 6], Limits(3), individual=1),
                engine.generate(
                    np.array([5, 6]), Limits(np.int64(3)), individual=np.int32(1)
                ),
            )

    one, other = asyncio.run(run())
    assert one == other


def test_a_population_of_another_size_is_not_swapped_in(
    make, program, weights, population
):
    engine = engine_with(make, program, weights, population)
    fewer = population.replace(
        coefficients=population.coefficients[:2],
        vectors={name: table[:2] for name, table in population.vectors.items()},
    )
    with pytest.raises(ValueError, match=r"expected 3 individuals.* got 2"):
        engine.replace(fewer)


def test_others_may_be_loaded_after_everybody_gave_up(make, program, weights):
    """Whoever was cancelled in the queue is not under way."""
    engine = engine_with(make, program, weights)

    async def run():
        asked = asyncio.ensure_future(engine.generate([5, 6], Limits(3)))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="waiting or running"):
            engine.load(weights)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        engine.load(weights)

    asyncio.run(run())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_give_no_reply(make, program, weights, temperature):
    """Finite weights, but their product overflows; good weights answer as before."""
    engine = engine_with(make, program, weights)
    huge = weights | {
        "model.norm.weight": weights["model.norm.weight"] * 1e38,
        EMBEDDING: weights[EMBEDDING] * 1e4,  # tied: it is the head too
    }
    sampling = Sampling(temperature, seed=1)

    async def run():
        async with make.serving(engine):
            return await asyncio.gather(
                engine.generate([5, 6, 8], Limits(4), sampling=sampling),
                engine.score([5, 6, 8], 1),
                return_exceptions=True,
            )

    before = asyncio.run(run())
    engine.load(huge)
    for error in asyncio.run(run()):
        assert isinstance(error, NotFiniteError)
    engine.load(weights)
    assert asyncio.run(run()) == before
