"""CMA-ES, NSGA-II and one-archive MAP-Elites: what each promises beyond the door."""

import types

import jax
import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.core_basis import core_basis
from cycleqd_jax.merging.genome import expert_genome
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.search import nsga2
from cycleqd_jax.search.base import Context, Outcome, Status
from cycleqd_jax.search.cma_es import Factors
from cycleqd_jax.search.registry import search_class

TASKS = ("a", "b", "c")
BEST = (0.7, 0.3, 0.5)  # the shares of the experts that solve each task


def score(genome, basis):
    """Per task: how close the experts' shares are to `BEST`, its own counting most."""
    shares = Factors(basis).of(genome).reshape(-1, 3).mean(axis=0)
    gaps = np.abs(shares - BEST)
    return tuple(float(np.clip(1 - g - gaps.mean() / 2, 0, 1)) for g in gaps)


def evolve(search, basis, children=96, seed=0):
    experts = [expert_genome(basis, k) for k in range(3)]
    state = search.init(experts, np.asarray([score(e, basis) for e in experts]))
    size, key = search.context.qd.children_per_batch, jax.random.key(seed)
    while state.next_generation <= children:
        first = state.next_generation
        asked = search.ask(state, key, tuple(range(first, first + size)))
        outcomes = [Outcome(score(genome, basis)) for genome in asked.genomes]
        state = search.tell(state, asked, outcomes)
    return state


def means(state):
    return state.bank.scores.mean(axis=1)


@pytest.mark.parametrize("name", ["cma_es", "map_elites", "nsga2"])
def test_each_rival_gets_better_than_its_start(name, context, basis):
    search = search_class(name)(context(children_per_batch=12, bins=5))
    state = evolve(search, basis)
    found = means(state)
    best = search.champions(state).best
    assert best == int(np.argmax(found))
    # Much of the gap between the best expert and the optimum, 1, is closed.
    assert found[best] > found[:3].max() + 0.5 * (1 - found[:3].max())


def test_cma_es_learns_where_its_population_lies(context, basis):
    search = search_class("cma_es")(context({"start": 0.0}, children_per_batch=12))
    state = evolve(search, basis, children=240)
    found = means(state)[3:].reshape(-1, 12).mean(axis=1)
    assert found[-1] > 0.95 > 0.6 > found[0]
    np.testing.assert_allclose(state.memory.cma.mean, BEST, atol=0.05)
    assert state.memory.cma.sigma < 1 / 6


def test_cma_es_updates_by_rank_and_given_up_children_come_last(context, basis):
    """QDax's own update of the same sorted samples."""
    search = search_class("cma_es")(context(children_per_batch=4))
    state = evolve(search, basis, children=0)
    asked = search.ask(state, jax.random.key(1), (1, 2, 3, 4))
    outcomes = [Outcome((s,) * 3) for s in (0.2, 0.9, 0.6, 0.2)]
    outcomes[1] = outcomes[1]._replace(status=Status.REJECTED)
    after = search.tell(state, asked, outcomes)
    factors = np.stack([Factors(basis).of(asked.genomes[i]) for i in (2, 0)])
    weights = np.log(2.5 / np.arange(1, 3))
    np.testing.assert_allclose(
        after.memory.cma.mean, weights / weights.sum() @ factors, rtol=1e-5
    )
    assert after.memory.count == 0 and after.memory.cma.num_updates == 1


@pytest.mark.parametrize("form", ["diagonal", "core"])
def test_factors_scale_experts_by_kind_of_matrix(form):
    """Against sums of dense task vectors in float64."""
    rng = np.random.default_rng(0)
    names = [f"layers.{i}.{kind}.weight" for i in range(2) for kind in "qk"]
    base = {n: rng.standard_normal((6, 5)) for n in names} | {"norm": np.ones(5)}
    experts = [
        types.SimpleNamespace(
            weights={n: w + rng.standard_normal(w.shape) for n, w in base.items()}
        )
        for _ in range(2)
    ]
    basis = compute_basis(base, experts)
    if form == "core":
        basis = core_basis(basis)
    factors = Factors(basis)
    assert factors.size == 2 * 3  # kinds k, q and what is no matrix
    drawn = rng.uniform(-1, 1, 6)
    genome = factors.genome(drawn)
    np.testing.assert_allclose(factors.of(genome), drawn, atol=1e-5)
    of_kind = {"k": drawn[:2], "q": drawn[2:4]}
    for slot in basis.layout:
        part = slice(slot.offset, slot.offset + slot.size)
        left, right = basis.factors(slot.name, genome.coefficients[part])
        want = sum(
            f * (expert.weights[slot.name] - base[slot.name])
            for f, expert in zip(of_kind[slot.name.split(".")[2]], experts, strict=True)
        )
        np.testing.assert_allclose(left @ right.T, want, atol=1e-4)
    np.testing.assert_allclose(genome.scales, drawn[4:], rtol=1e-6)


def test_a_kind_that_one_expert_leaves_alone_has_a_factor_without_effect(basis):
    rng = np.random.default_rng(0)
    base = {"q.weight": np.ones((4, 3))}
    experts = [
        types.SimpleNamespace(weights={"q.weight": base["q.weight"] + change})
        for change in (rng.standard_normal((4, 3)), 0.0)
    ]
    factors = Factors(compute_basis(base, experts))
    np.testing.assert_allclose(
        factors.of(factors.genome(np.array([0.5, 0.7]))), [0.5, 0.0], atol=1e-6
    )


def test_a_population_of_two_is_refused(context):
    with pytest.raises(BadInputError, match=r"qd\.children_per_batch is 2"):
        search_class("cma_es")(context(children_per_batch=2))


def dense_fronts(scores):
    """Peels Pareto fronts off, by the definition."""
    left, number, front = set(range(len(scores))), 0, {}
    while left:
        free = {
            i
            for i in left
            if not any(
                (scores[j] >= scores[i]).all() and (scores[j] > scores[i]).any()
                for j in left
            )
        }
        front |= dict.fromkeys(free, number)
        left, number = left - free, number + 1
    return [front[i] for i in range(len(scores))]


@pytest.mark.parametrize("seed", range(3))
def test_fronts_by_their_definition(seed):
    scores = np.random.default_rng(seed).integers(0, 4, (30, 3)) / 4
    assert nsga2.fronts(scores).tolist() == dense_fronts(scores)


def test_crowding_distances_by_hand():
    scores = np.array([[0.0, 1.0], [0.5, 0.4], [0.6, 0.3], [1.0, 0.0]])
    got = nsga2.crowding_distances(scores)
    assert got.tolist() == pytest.approx([np.inf, 0.6 + 0.7, 0.5 + 0.4, np.inf])
    same = np.array([[0.5, 0.5]] * 3)
    assert nsga2.crowding_distances(same).tolist() == [0.0] * 3


def test_the_most_crowded_member_of_the_last_front_leaves(context, basis):
    search = search_class("nsga2")(context({"population": 4}))
    state = evolve(search, basis, children=0)
    experts = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    state = search.init([expert_genome(basis, k) for k in range(3)], experts)
    asked = search.ask(state, jax.random.key(0), (1, 2, 3))
    scores = [(0.5, 0.5, 0.0), (0.1, 0.0, 0.0), (0.4, 0.6, 0.1)]
    state = search.tell(state, asked, [Outcome(s) for s in scores])
    # Child 2 is dominated; of the others the one between two neighbours is crowded.
    assert set(state.memory.tolist()) == {0, 1, 2, 5}


def test_parents_are_drawn_by_the_chances_of_a_binary_tournament(context, basis):
    search = search_class("nsga2")(context({"population": 5}, children_per_batch=4000))
    scores = np.array([[0.9, 0.9, 0.9], [0.5, 0.5, 0.5], [0.1, 0.1, 0.1]])
    state = search.init([expert_genome(basis, k) for k in range(3)], scores)
    asked = search.ask(state, jax.random.key(0), tuple(range(1, 4001)))
    first = np.array([one.parents[0] for one in asked.lineage])
    assert all(one.parents[0] != one.parents[1] for one in asked.lineage)
    shares = np.bincount(first, minlength=3) / 4000
    np.testing.assert_allclose(shares, [5 / 9, 3 / 9, 1 / 9], atol=0.03)


def test_map_elites_keeps_one_individual_per_cell_by_its_mean(context, basis):
    ranges = dict.fromkeys(TASKS, (0.0, 1.0))
    search = search_class("map_elites")(context(bins=2, cell_range=ranges))
    experts = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]])
    state = search.init([expert_genome(basis, k) for k in range(3)], experts)
    asked = search.ask(state, jax.random.key(0), (1, 2, 3))
    scores = [(0.8, 0.2, 0.1), (0.9, 0.2, 0.2), (0.6, 0.6, 0.6)]
    state = search.tell(state, asked, [Outcome(s) for s in scores])
    rows = {r["individual"]: r for r in search.summary(state).archives}
    assert set(rows) == {4, 1, 2, 5}  # child 2 is in the cell of expert 0
    assert rows[4]["bins"] == [1, 0, 0] and rows[4]["quality"] == pytest.approx(1.3 / 3)
    assert search.metrics(state)["coverage/mean"] == 0.5
    [group] = search.champions(state).contenders.values()
    assert group[0].individual == 5
    assert 0 in state.bank.genomes and 3 not in state.bank.genomes


@pytest.mark.parametrize("name", ["map_elites", "nsga2"])
@pytest.mark.parametrize("mutation", ["gaussian", "svd_child"])
def test_rivals_breed_with_every_operator(name, mutation, basis):
    kind, qd = search_class(name), QDSettings(mutation=mutation, bins=4)
    assert kind.uses_noise(qd) == (mutation == "gaussian")
    if kind.basis_form(qd, {}) == "core":
        basis = core_basis(basis)
    search = kind(Context(qd, {}, basis, TASKS, TASKS))
    state = evolve(search, basis, children=8)
    assert state.next_generation == 9


@pytest.mark.parametrize("name", ["cma_es", "map_elites", "nsga2", "random"])
def test_smooth_scores_decide_between_equal_means(name, context, basis):
    ranges = dict.fromkeys(TASKS, (0.0, 1.0))
    search = search_class(name)(context(cell_range=ranges, children_per_batch=4))
    scores, smooth = np.full((3, 3), 0.25), np.full((3, 3), -1.0)
    state = search.init([expert_genome(basis, k) for k in range(3)], scores, smooth)
    asked = search.ask(state, jax.random.key(0), (1, 2, 3, 4))
    outcomes = [Outcome((0.5,) * 3, smooth=(s,) * 3) for s in (-3.0, -1.0, -2.0, -4.0)]
    state = search.tell(state, asked, outcomes)
    found = search.champions(state)
    [group] = found.contenders.values()
    assert found.best == group[0].individual == 4
    if name == "cma_es":
        samples = np.stack([Factors(basis).of(asked.genomes[i]) for i in (1, 2)])
        weights = np.log(2.5 / np.arange(1, 3))
        np.testing.assert_allclose(
            state.memory.cma.mean, weights / weights.sum() @ samples, rtol=1e-5
        )
