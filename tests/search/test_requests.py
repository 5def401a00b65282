"""Gradient mutation, evolution strategies and gradient ascent on losses one can know.

Every problem's loss is the squared distance of a genome's multipliers (coefficients in
units of singular values) from a target of its own, so gradients are known too.
"""

import jax
import numpy as np
import pytest
from scripted import ScriptedEvaluator

from cycleqd_jax.evaluation.accepted import AcceptedReplies
from cycleqd_jax.evaluation.base import (
    Cost,
    Gradients,
    ReferenceScore,
    Scoring,
    select_problems,
)
from cycleqd_jax.qd.ascent import draw_problems, draw_task_weights
from cycleqd_jax.qd.schedule import generation_keys
from cycleqd_jax.runs.loop import ask
from cycleqd_jax.search.base import Outcome
from cycleqd_jax.search.cycleqd import CycleQD
from cycleqd_jax.search.gradient import GradientSearch
from cycleqd_jax.search.requests import (
    AcceptedAnswer,
    AcceptedRequest,
    GradientRequest,
    ScoreRequest,
)
from cycleqd_jax.tasks.base import Split
from tests.search.conftest import TASKS, TRAIN, rule
from tests.search.test_searches import begun

KEY, TS = jax.random.key(7), (1, 2, 3)
ASCENT = {"ascent_steps": 3, "ascent_problems": 2, "ascent_rate": 0.05}


class Quadratic(ScriptedEvaluator):
    """Loss of a problem: `mean((m - target)^2) / 2`."""

    def __init__(self, tasks, basis):
        super().__init__(tasks, rule)
        self.units = np.asarray(basis.singular_values, np.float64)
        self.moving = self.units > 0
        self.splits = []

    def target(self, task, problem):
        seed = [TASKS.index(task), int(problem.rpartition("/")[2])]
        own = np.random.default_rng(seed[:1]).uniform(0.5, 1.5, self.units.size)
        return own + 0.1 * np.random.default_rng(seed).standard_normal(self.units.size)

    def error(self, genome, task, problem):
        with np.errstate(invalid="ignore", divide="ignore"):
            m = np.asarray(genome.coefficients, np.float64) / self.units
        return np.where(self.moving, m - self.target(task, problem), 0.0)

    def loss(self, genome, task, problem):
        return (self.error(genome, task, problem) ** 2).sum() / 2 / self.moving.sum()

    def score(self, individuals, split, *, problems=None, progress=None):
        rows = [
            ReferenceScore(
                name, split, t.name, p.id, -self.loss(genome, t.name, p.id), 1
            )
            for name, genome in individuals.items()
            for t, p in select_problems(self.tasks, split, problems)
        ]
        return Scoring(rows, Cost(len(rows), 0, 0.0))

    def gradient(self, genomes, task_weights, split, *, problems, replies=None):
        self.splits.append(split)
        losses = np.full((len(genomes), 3), np.nan)
        slopes = np.zeros((len(genomes), self.units.size))
        for i, genome in enumerate(genomes):
            for task, ids in problems[i].items():
                k = TASKS.index(task)
                losses[i, k] = np.mean([self.loss(genome, task, p) for p in ids])
                errors = np.mean([self.error(genome, task, p) for p in ids], axis=0)
                own = errors / self.moving.sum()
                slopes[i] += task_weights[i, k] * np.divide(
                    own, self.units, out=np.zeros_like(own), where=self.moving
                )
        return Gradients(losses, slopes.astype(np.float32), Cost(1, 1, 0.0))


@pytest.fixture
def quadratic(tasks, basis):
    return Quadratic(tasks, basis)


def bits(candidates):
    return [
        (one.coefficients.tobytes(), one.scales.tobytes()) for one in candidates.genomes
    ]


@pytest.mark.parametrize("mutation", ["gradient", "es"])
@pytest.mark.parametrize("optimiser", ["adam", "normalised"])
def test_a_child_is_the_same_alone_and_in_a_batch(
    context, basis, scripted, quadratic, mutation, optimiser
):
    search = CycleQD(context(mutation=mutation, ascent_optimiser=optimiser, **ASCENT))
    state = begun(search, basis, scripted)
    together = ask(search, state, KEY, TS, quadratic)
    for i, t in enumerate(TS):
        alone = ask(search, state, KEY, (t,), quadratic)
        assert bits(alone) == [bits(together)[i]]
        assert alone.lineage == (together.lineage[i],)


def without(context, *tasks):
    """The context of a run in which some tasks have no known answers."""
    known = {task: ids for task, ids in TRAIN.items() if task not in tasks}
    return context._replace(train=known)


@pytest.mark.parametrize("unknown", [(), ("b",), ("a", "c")])
def test_gradient_mutation_equals_its_formula(
    context, basis, scripted, quadratic, unknown
):
    """The crossed child, then steps on a mix of normalised gradients, in float64."""
    settings = ASCENT | {"ascent_optimiser": "normalised", "ascent_sigma": 0.7}
    search = CycleQD(without(context(mutation="gradient", **settings), *unknown))
    crossed = CycleQD(context(mutation="none"))
    state = begun(search, basis, scripted)
    start = ask(crossed, state, KEY, TS, scripted)
    got = ask(search, state, KEY, TS, quadratic)
    count = quadratic.moving.sum()
    for i, t in enumerate(TS):
        key = generation_keys(KEY, t).mutation
        active = got.lineage[i].active
        weights = draw_task_weights(jax.random.fold_in(key, 0), 3, active, sigma=0.7)
        assert weights[active] == 1 and got.lineage[i] == start.lineage[i]
        m = np.asarray(start.genomes[i].coefficients, np.float64)
        for step in range(3):
            drawn, _ = jax.random.split(jax.random.fold_in(key, step + 1))
            genome = start.genomes[i].replace(coefficients=m)
            move = np.zeros_like(m)
            known = search.context.train
            for task, ids in draw_problems(drawn, known, 2).items():
                slope = np.mean([quadratic.error(genome, task, p) for p in ids], axis=0)
                size = np.sqrt((slope**2).sum() / count)
                move += float(weights[TASKS.index(task)]) * slope / size
            m = m - 0.05 * quadratic.units * move
        np.testing.assert_allclose(got.genomes[i].coefficients, m, rtol=2e-4, atol=1e-5)
        np.testing.assert_array_equal(got.genomes[i].scales, start.genomes[i].scales)


@pytest.mark.parametrize("mutation", ["gradient", "es"])
def test_children_come_nearer_to_what_their_active_task_wants(
    context, basis, scripted, quadratic, mutation
):
    settings = ASCENT | {"ascent_steps": 6, "es_pairs": 40}
    search = CycleQD(context(mutation=mutation, **settings))
    state = begun(search, basis, scripted)
    start = ask(CycleQD(context(mutation="none")), state, KEY, TS, scripted)
    moved = ask(search, state, KEY, TS, quadratic)
    for before, after, lineage in zip(
        start.genomes, moved.genomes, moved.lineage, strict=True
    ):
        task = TASKS[lineage.active]
        losses = [
            np.mean([quadratic.loss(genome, task, p) for p in TRAIN[task]])
            for genome in (before, after)
        ]
        assert losses[1] < 0.9 * losses[0]


def test_the_requests_of_each_step(context, basis, scripted, quadratic):
    """One row per task, with its own problems; two rows per pair of perturbations."""
    search = CycleQD(context(mutation="gradient", **ASCENT))
    state = begun(search, basis, scripted)
    first = search.ask(state, KEY, TS)
    assert isinstance(first, GradientRequest) and len(first.genomes) == 9
    np.testing.assert_array_equal(first.task_weights, np.tile(np.eye(3), (3, 1)))
    for row, problems in enumerate(first.problems):
        [(task, ids)] = problems.items()
        assert task == TASKS[row % 3] and len(set(ids)) == 2
        assert set(ids) <= set(TRAIN[task])
    found = quadratic.gradient(
        first.genomes, first.task_weights, Split.TRAIN, problems=first.problems
    )
    second = search.ask(state, KEY, TS, (found,))
    assert second.problems != first.problems  # freshly drawn
    search = CycleQD(context(mutation="es", es_pairs=2, es_std=0.1, **ASCENT))
    asked = search.ask(state, KEY, TS)
    assert isinstance(asked, ScoreRequest) and len(asked.genomes) == 12
    for row in range(0, 12, 4):
        assert asked.problems[row] == asked.problems[row + 3]
        assert set(asked.problems[row]) == set(TASKS)
        c = np.stack([genome.coefficients for genome in asked.genomes[row : row + 4]])
        middle = (c[0] + c[1]) / 2
        np.testing.assert_allclose((c[2] + c[3]) / 2, middle, rtol=1e-5, atol=1e-6)
        size = (c[0] - middle)[quadratic.moving] / quadratic.units[quadratic.moving]
        assert 0.05 < size.std() < 0.2


@pytest.mark.parametrize("mutation", ["gradient", "es"])
def test_a_child_of_a_task_without_answers_follows_the_others(
    context, basis, scripted, quadratic, mutation
):
    """Task b has none: its children move, and nothing of it is asked for."""
    settings = ASCENT | {"ascent_steps": 6, "es_pairs": 40}
    search = CycleQD(without(context(mutation=mutation, **settings), "b"))
    state = begun(search, basis, scripted)
    asked = search.ask(state, KEY, TS)
    assert {task for one in asked.problems for task in one} == {"a", "c"}
    if mutation == "gradient":
        np.testing.assert_array_equal(
            asked.task_weights, np.tile(np.eye(3)[[0, 2]], (3, 1))
        )
    start = ask(CycleQD(context(mutation="none")), state, KEY, TS, scripted)
    moved = ask(search, state, KEY, TS, quadratic)
    own = [lineage.active for lineage in moved.lineage].index(1)
    losses = [
        np.mean(
            [quadratic.loss(one.genomes[own], t, p) for t in "ac" for p in TRAIN[t]]
        )
        for one in (start, moved)
    ]
    assert losses[1] < 0.9 * losses[0]


def accepted(tasks, solved):
    """A record in which some problems are solved."""
    record = AcceptedReplies(tasks)
    evaluator = ScriptedEvaluator(tasks, lambda _, task, i: float((task, i) in solved))
    record.add(evaluator.evaluate({"one": None}, Split.OPTIMISE).episodes)
    return record


ACCEPTED = {"ascent_answers": "accepted"}


@pytest.mark.parametrize(
    "make",
    [
        lambda context: CycleQD(context(mutation="gradient", **ACCEPTED, **ASCENT)),
        lambda context: GradientSearch(context({"answers": "accepted", "steps": 3})),
    ],
)
def test_a_search_follows_accepted_replies(
    context, basis, scripted, quadratic, tasks, make
):
    """Of the problems that are solved so far, and of nothing else."""
    search = make(context)
    state = begun(search, basis, scripted)
    asked = search.ask(state, KEY, TS)
    assert asked == AcceptedRequest()
    solved = {"a": ("a/optimise/1", "a/optimise/2"), "c": ("c/optimise/0",)}
    weights = {"a": (0.5, 0.5), "c": (1.0,)}
    asked = search.ask(state, KEY, TS, (AcceptedAnswer(solved, weights),))
    assert asked.accepted
    assert {i for own in asked.problems for ids in own.values() for i in ids} <= {
        *solved["a"], *solved["c"]
    }  # fmt: skip
    record = accepted(tasks, {("a", 1), ("a", 2), ("c", 0)})
    together = ask(search, state, KEY, TS, quadratic, accepted=record)
    assert set(quadratic.splits) == {Split.OPTIMISE} and len(quadratic.splits) % 3 == 0
    if isinstance(search, CycleQD):
        for i, t in enumerate(TS):
            alone = ask(search, state, KEY, (t,), quadratic, accepted=record)
            assert bits(alone) == [bits(together)[i]]


def test_before_anything_is_solved_a_search_proposes_without_gradients(
    context, basis, scripted, tasks
):
    search = CycleQD(context(mutation="gradient", **ACCEPTED))
    crossed = CycleQD(context(mutation="none"))
    state = begun(search, basis, scripted)
    record = accepted(tasks, ())
    got = ask(search, state, KEY, TS, scripted, accepted=record)
    assert bits(got) == bits(ask(crossed, state, KEY, TS, scripted))
    search = GradientSearch(context({"answers": "accepted"}))
    state = begun(search, basis, scripted)
    got = ask(search, state, KEY, TS, scripted, accepted=record)
    start = np.asarray(state.memory.coefficients).tobytes()
    assert [own[0] for own in bits(got)] == [start] * 3
    assert not scripted.replies


def test_gradient_ascent_on_the_tasks_with_answers(context, basis, scripted, quadratic):
    search = GradientSearch(without(context({"rate": 0.02}), "a"))
    asked = search.ask(begun(search, basis, scripted), KEY, (1,))
    np.testing.assert_array_equal(asked.task_weights, [[0, 0.5, 0.5]])
    assert set(asked.problems[0]) == {"b", "c"}


def test_scores_are_asked_once_per_set_of_problems(context, basis, scripted, quadratic):
    search = CycleQD(context(mutation="es", es_pairs=2, **ASCENT))
    state, calls = begun(search, basis, scripted), []

    class Counting(Quadratic):
        def score(self, individuals, split, *, problems=None, progress=None):
            calls.append(tuple(individuals))
            return super().score(individuals, split, problems=problems)

    ask(search, state, KEY, (1, 2), Counting(quadratic.tasks, basis))
    assert calls == [("0", "1", "2", "3"), ("4", "5", "6", "7")] * 3


def test_gradient_ascent_goes_down_and_remembers(context, basis, scripted, quadratic):
    search = GradientSearch(context({"rate": 0.02, "steps": 3, "problems": 4}))
    state = begun(search, basis, scripted)
    together = ask(search, state, KEY, (1, 2, 3, 4), quadratic)
    start = np.asarray(basis.singular_values)
    np.testing.assert_array_equal(state.memory.coefficients, start)
    losses = [
        np.mean([quadratic.loss(g, t, p) for t in TASKS for p in TRAIN[t]])
        for g in together.genomes
    ]
    assert losses == sorted(losses, reverse=True) and len(set(losses)) == 4
    # Told one by one and asked again, it goes on where the batch would.
    for t in (1, 2, 3, 4):
        one = ask(search, state, KEY, (t,), quadratic)
        assert bits(one) == [bits(together)[t - 1]]
        state = search.tell(state, one, [Outcome((0.5, 0.5, 0.1 * t))])
    assert search.champions(state).best == 6
    assert int(jax.tree.leaves(state.memory.optimiser)[0]) == 12
