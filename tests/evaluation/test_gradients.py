"""Gradients of the local evaluator: losses as scored, bits, bad input."""

import numpy as np
import pytest

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.evaluation.base import mean_losses
from cycleqd_jax.merging.genome import base_genome, expert_genome, uniform
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.setup import open_evaluator, prepare
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.tasks.base import Split

PROBLEMS = {"toy_a": ("toy_a/train/1", "toy_a/train/4"), "toy_c": ("toy_c/train/0",)}
OTHERS = {"toy_b": ("toy_b/train/2", "toy_b/train/3", "toy_b/train/5")}


@pytest.fixture(scope="module")
def opened(toy_settings):
    qd = toy_settings["qd"] | {"mutation": "gradient"}
    config = RunConfig.model_validate(toy_settings | {"qd": qd})
    prepared = prepare(config, None, Observer())
    with open_evaluator(config, prepared, make_sandbox(config.sandbox)) as evaluator:
        yield prepared, evaluator


def test_losses_are_those_of_the_engine_and_tokens_are_counted(opened):
    prepared, evaluator = opened
    genomes = {"uniform": uniform(prepared.basis), "base": base_genome(prepared.basis)}
    found = evaluator.gradient(
        list(genomes.values()), np.ones((2, 3)), Split.TRAIN, problems=[PROBLEMS] * 2
    )
    scoring = evaluator.score(genomes, Split.TRAIN, problems=PROBLEMS)
    for losses, means in zip(
        found.losses, mean_losses(scoring.scores).values(), strict=True
    ):
        want = [means.get(task, np.nan) for task in prepared.task_names]
        np.testing.assert_allclose(losses, want, rtol=1e-4)
    assert found.losses.dtype == np.float64 and found.gradients.dtype == np.float32
    cost = found.cost
    assert cost.tokens_forward == cost.tokens_backward == scoring.cost.tokens_forward
    assert cost.seconds > 0


def test_gradients_predict_losses(opened):
    """A step down the slope lowers the weighted loss by as much as it says, to 5 %."""
    prepared, evaluator = opened
    genome = uniform(prepared.basis)
    weights = np.asarray([[1.0, 0.0, 0.5]])

    def at(genome):
        return evaluator.gradient([genome], weights, Split.TRAIN, problems=[PROBLEMS])

    here = at(genome)
    slope = here.gradients[0].astype(np.float64)
    step = 2e-3 / (slope @ slope)
    down = genome.replace(
        coefficients=np.asarray(genome.coefficients - step * slope, np.float32)
    )
    change = np.nansum((at(down).losses - here.losses) * weights)
    assert change == pytest.approx(-2e-3, rel=0.05)


def test_a_genome_gets_the_same_bits_alone_and_among_others(opened):
    """More genomes than share a pass (2), each with problems of its own."""
    prepared, evaluator = opened
    genomes = [expert_genome(prepared.basis, k) for k in (0, 1, 2)]
    weights = np.asarray([[1, 1, 1], [0, 2, 0], [0.5, 0, 1]], np.float32)
    problems = [PROBLEMS | OTHERS, OTHERS, PROBLEMS]
    together = evaluator.gradient(genomes, weights, Split.TRAIN, problems=problems)
    for i in range(3):
        one = slice(i, i + 1)
        alone = evaluator.gradient(
            genomes[one], weights[one], Split.TRAIN, problems=problems[one]
        )
        np.testing.assert_array_equal(alone.gradients, together.gradients[one])
        np.testing.assert_array_equal(alone.losses, together.losses[one])


def test_the_loss_is_weighted_by_task(opened):
    prepared, evaluator = opened
    genomes = [uniform(prepared.basis)] * 3
    weights = np.asarray([[1, 0, 0], [0, 0, 1], [0.5, 0, 2]], np.float32)
    found = evaluator.gradient(genomes, weights, Split.TRAIN, problems=[PROBLEMS] * 3)
    a, c, mixed = found.gradients.astype(np.float64)
    np.testing.assert_allclose(mixed, 0.5 * a + 2 * c, atol=1e-4 * np.abs(mixed).max())
    assert np.abs(a - c).max() > 0.1 * np.abs(a).max()


def test_replies_take_the_place_of_reference_answers(opened):
    """The reference answer as a reply gives the same bits, another text others."""
    prepared, evaluator = opened
    task = evaluator.tasks[0]
    problem = task.problems(Split.OPTIMISE)[1]
    ids, right = {task.name: (problem.id,)}, task.dialogue(problem)[-1]["content"]

    def losses(replies):
        return evaluator.gradient(
            [uniform(prepared.basis)],
            np.ones((1, 3)),
            Split.OPTIMISE,
            problems=[ids],
            replies=replies,
        ).losses.tobytes()

    known = losses(None)
    assert losses({task.name: {problem.id: right}}) == known
    assert losses({task.name: {problem.id: right + "!"}}) != known
    with pytest.raises(
        BadInputError, match=f"{problem.id} of toy_a has no right answer"
    ):
        losses({task.name: {}})


def test_bad_calls_are_one_sentence(opened):
    prepared, evaluator = opened
    genome = uniform(prepared.basis)
    ones = np.ones((1, 3))

    def asked(genome, problems):
        return evaluator.gradient([genome], ones, Split.TRAIN, problems=[problems])

    with pytest.raises(BadInputError, match="'toy_x' is not one of the tasks"):
        asked(genome, {"toy_x": ("1",)})
    with pytest.raises(BadInputError, match="'toy_a/test/0' is not a problem of toy_a"):
        asked(genome, {"toy_a": ("toy_a/test/0",)})
    task = prepared.tasks[1]
    task.reference = lambda problem: None
    try:
        with pytest.raises(BadInputError, match="toy_b/train/2 of toy_b has no right"):
            asked(genome, OTHERS)
    finally:
        del task.reference
    bad = genome.replace(coefficients=np.full(prepared.basis.genome_size, np.nan))
    with pytest.raises(RunError, match="genome 0 on toy_a/train/1: its loss is NaN"):
        asked(bad, PROBLEMS)
