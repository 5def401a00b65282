"""Evaluation: both modes score alike, failures are never scores."""

import jax.numpy as jnp
import pytest

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.evaluation.local import mean_scores
from cycleqd_jax.inference.population import choose_mode
from cycleqd_jax.merging.genome import base_genome, expert_genome, uniform
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.setup import open_evaluator, open_sandbox, prepare
from cycleqd_jax.tasks.base import Split


def open_with(settings, **engine):
    config = RunConfig.model_validate(
        settings | {"engine": settings["engine"] | engine}
    )
    prepared = prepare(config, None, Observer())
    sandbox = open_sandbox(config.sandbox)
    return prepared, open_evaluator(config, prepared, sandbox)


def without_time(episodes):
    return [(e.individual, e.task, e.problem, e.score, e.tokens) for e in episodes]


def test_factored_and_materialised_give_the_same_episodes(toy_settings):
    found = {}
    for mode in ("factored", "materialised"):
        prepared, opened = open_with(toy_settings, mode=mode)
        basis = prepared.basis
        models = {f"expert/{k}": expert_genome(basis, k) for k in range(3)}
        models |= {"base": base_genome(basis), "uniform": uniform(basis)}
        with opened as evaluator:
            found[mode] = evaluator.evaluate(models, Split.VALIDATE)
        assert [e.individual for e in found[mode][::12]] == list(models)
    assert without_time(found["factored"]) == without_time(found["materialised"])
    scores = mean_scores(found["factored"])
    assert len({tuple(row.values()) for row in scores.values()}) > 1


def test_auto_takes_the_mode_by_the_work_it_adds(toy_settings):
    prepared, _ = open_with(toy_settings, mode="auto")
    assert prepared.mode.mode == "materialised"  # rank 6 of width 16 is much
    assert "work" in prepared.mode.reason
    wide = {name: jnp.zeros((4096, 4096)) for name in prepared.weights}
    assert choose_mode("auto", wide, prepared.basis).mode == "factored"
    assert choose_mode("materialised", wide, prepared.basis).mode == "materialised"


def test_a_failing_environment_stops_the_evaluation(toy_settings):
    class Broken:
        async def run(self, program):
            raise SandboxError("out of order")

        async def close(self):
            pass

    prepared, opened = open_with(toy_settings)
    with opened as evaluator:
        evaluator._sandbox = Broken()
        with pytest.raises(SandboxError, match="out of order"):
            evaluator.evaluate({"base": base_genome(prepared.basis)}, Split.TEST)


def test_prompts_that_do_not_fit_are_refused_before_work_starts(toy_settings):
    with pytest.raises(BadInputError, match=r"engine\.length.*toy_.*set it to 48"):
        open_with(toy_settings, length=32, decode_steps=4)
