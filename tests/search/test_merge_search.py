"""Closed forms behind the door: one candidate per density and factor."""

import jax
import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.closed_forms import closed_form
from cycleqd_jax.merging.core_basis import core_basis
from cycleqd_jax.merging.genome import expert_genome
from cycleqd_jax.merging.individuals import Recipe
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.runs.checkpoints import Checkpoints, state_fingerprint
from cycleqd_jax.search.base import Context, Outcome, Status
from cycleqd_jax.search.merges import MergeSearch

TASKS = ("a", "b", "c")
RECIPES = ("ties", "dare", "dare_ties")


def begun(search):
    experts = [expert_genome(search.context.basis, k) for k in range(3)]
    return search.init(experts, np.full((3, 3), 0.9))


def told(search, state, scores, ts, key):
    asked = search.ask(state, key, ts)
    return search.tell(state, asked, [Outcome((s, s, s)) for s in scores])


@pytest.mark.parametrize("method", ["sum", "uniform", "tsv_m", "iso_c"])
def test_asks_once_per_factor(context, basis, method):
    options = {"method": method, "factors": [0.5, 1.0, 2.0]}
    made = context(options, num_generations=3)
    form = MergeSearch.basis_form(made.qd, options)
    assert form == ("core" if method in ("tsv_m", "iso_c") else "diagonal")
    basis = core_basis(basis) if form == "core" else basis
    search = MergeSearch(made._replace(basis=basis))
    asked = search.ask(begun(search), jax.random.key(0), (1, 2, 3))
    for genome, factor in zip(asked.genomes, [0.5, 1.0, 2.0], strict=True):
        want = closed_form(method, basis, factor)
        np.testing.assert_allclose(genome.coefficients, want.coefficients, rtol=1e-6)
        np.testing.assert_allclose(genome.scales, want.scales, rtol=1e-6)
        assert genome.coefficients.dtype == np.float32


def test_weights_of_experts(context, basis):
    weights = [0.25, -0.5, 2.0]
    options = {"factors": [2.0], "weights": weights}
    search = MergeSearch(context(options, num_generations=1))
    (genome,) = search.ask(begun(search), jax.random.key(0), (1,)).genomes
    experts = [expert_genome(basis, k) for k in range(3)]
    want = sum(
        2 * w * np.asarray(e.coefficients)
        for w, e in zip(weights, experts, strict=True)
    )
    np.testing.assert_allclose(genome.coefficients, want, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(genome.scales, 2 * np.asarray(weights), rtol=1e-6)
    options |= {"method": "dare_ties", "densities": [0.5], "normalise": False}
    search = MergeSearch(context(options, num_generations=1))
    (recipe,) = search.ask(begun(search), jax.random.key(0), (1,)).genomes
    assert (recipe.weights, recipe.normalise) == (tuple(weights), False)


@pytest.mark.parametrize("method", RECIPES)
def test_asks_for_every_density_and_factor(context, method):
    options = {"method": method, "factors": [0.5, 1.0], "densities": [0.1, 0.9]}
    search = MergeSearch(context(options, num_generations=4))
    asked = search.ask(begun(search), jax.random.key(0), (1, 2, 3, 4))
    tried = [(one.density, one.factor) for one in asked.genomes]
    assert tried == [(0.1, 0.5), (0.1, 1.0), (0.9, 0.5), (0.9, 1.0)]
    assert {one.method for one in asked.genomes} == {method}
    assert len({one.seed for one in asked.genomes}) == 4
    other = search.ask(begun(search), jax.random.key(1), (2,)).genomes[0]
    assert other.seed != asked.genomes[1].seed


def test_experts_are_no_champions_of_a_merge(context):
    """They are far better here; a candidate that was given up is none either."""
    options = {"method": "dare", "factors": [0.5, 1.0, 1.5], "densities": [0.5]}
    search = MergeSearch(context(options, num_generations=3))
    state, key = begun(search), jax.random.key(0)
    asked = search.ask(state, key, (1, 2, 3))
    outcomes = [Outcome((s, s, s)) for s in (0.25, 0.5)]
    outcomes.append(Outcome((1.0, 1.0, 1.0), Status.REJECTED))
    state = search.tell(state, asked, outcomes)
    found = search.champions(state)
    assert [one.individual for one in found.contenders["mean"]] == [4, 3]
    assert found.best == 4 and state.bank.individual(4) == asked.genomes[1]
    assert search.metrics(state)["best/mean"] == 0.5


def test_recipes_survive_a_checkpoint(context, tmp_path):
    """Told in two parts with a restore between, or at once: the same bits."""
    options = {"method": "dare_ties", "factors": [0.3, 0.7], "densities": [0.1, 0.3]}
    options["weights"] = [0.5, 1.0, 1.5]
    search, key = MergeSearch(context(options, num_generations=4)), jax.random.key(7)
    scores = [0.1, 0.4, 0.2, 0.3]
    whole = told(search, begun(search), scores, (1, 2, 3, 4), key)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(told(search, begun(search), scores[:2], (1, 2), key))
        saved = checkpoints.restore()
        again = MergeSearch(context(options, num_generations=4))
        state = told(again, saved.into(begun(again)), scores[2:], (3, 4), key)
        assert state_fingerprint(state) == state_fingerprint(whole)
        checkpoints.save(state)
        bank = checkpoints.restore().bank
    assert [bank.individual(i) for i in range(3, 7)] == [
        whole.bank.individual(i) for i in range(3, 7)
    ]
    assert isinstance(bank.individual(3), Recipe)


@pytest.mark.parametrize(
    "options, children, said",
    [
        ({"method": "lerp"}, 1, "search_settings.method: .*'iso_c', 'ties'"),
        ({"method": "slerp"}, 1, "one expert to another, but there are 3"),
        ({"method": "slerp", "weights": [0.5, 0.6]}, 1, "expected two that make 1"),
        ({"weights": [1.0]}, 1, "has 1 numbers; expected one for each of the experts"),
        ({"method": "iso_c", "weights": [1.0]}, 1, "treats all experts alike"),
        ({"normalise": False}, 1, "sum divides by nothing"),
        ({"method": ["ties"]}, 1, "search_settings.method"),
        ({"factors": []}, 1, "search_settings.factors"),
        ({"factors": [0.5, 0.5]}, 1, "search_settings.factors"),
        ({"densities": [0.5]}, 1, "densities are given, but sum keeps all elements"),
        ({"method": "ties", "densities": [0.0]}, 1, "search_settings.densities"),
        ({"factors": [1.0]}, 2, "is 2, but .* give 1 candidates.*; set it to 1, or"),
        ({"method": "dare", "factors": [1.0]}, 3, "give 2 candidates"),
    ],
)
def test_wrong_settings_are_one_sentence(context, options, children, said):
    with pytest.raises(BadInputError, match=said) as error:
        MergeSearch(context(options, num_generations=children))
    assert "\n" not in str(error.value)


def test_residuals_are_refused():
    rng = np.random.default_rng(0)
    base = {"w": np.zeros((6, 5), np.float32)}

    class Full:
        def __init__(self):
            self.weights = {"w": rng.standard_normal((6, 5)).astype(np.float32)}

    settings = BasisSettings(rank=2, residual="keep")
    kept = core_basis(compute_basis(base, [Full() for _ in TASKS], settings))
    qd = QDSettings(num_generations=1)
    with pytest.raises(BadInputError, match=r"basis.residual: tsv_m merges"):
        MergeSearch(Context(qd, {"method": "tsv_m"}, kept, TASKS, TASKS))
