"""Merges as the first children: ids, costs, resume and lineage like any child."""

import jax
import numpy as np
import pytest
from pydantic import ValidationError

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.genome import scaled_sum, uniform
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.runs.checkpoints import Checkpoints, state_fingerprint
from cycleqd_jax.search.base import Lineage
from cycleqd_jax.search.cycleqd import CycleQD
from cycleqd_jax.search.random import RandomSearch
from tests.search.test_searches import begun, run

SEEDS = [1.0, "uniform", 1.2]


def test_the_first_children_are_the_seeds_and_the_rest_are_bred(
    context, basis, scripted
):
    search, plain = CycleQD(context(seeds=SEEDS)), CycleQD(context())
    state, key = begun(search, basis, scripted), jax.random.key(0)
    asked = search.ask(state, key, (1, 2, 3, 4, 5))
    want = [scaled_sum(basis, 1.0), uniform(basis), scaled_sum(basis, 1.2)]
    for got, genome in zip(asked.genomes, want, strict=False):
        np.testing.assert_allclose(got.coefficients, genome.coefficients, rtol=1e-6)
        np.testing.assert_allclose(got.scales, genome.scales, rtol=1e-6)
    assert asked.lineage[:3] == (Lineage(),) * 3
    bred = plain.ask(state, key, (4, 5))  # seeds change no draw of the others
    assert asked.lineage[3:] == bred.lineage and asked.ts == (1, 2, 3, 4, 5)
    for got, genome in zip(asked.genomes[3:], bred.genomes, strict=True):
        np.testing.assert_array_equal(got.coefficients, genome.coefficients)
    assert search.ask(state, key, (2,)).ts == (2,)


def test_a_run_resumes_in_the_middle_of_its_seeds(context, basis, scripted, tmp_path):
    def make():
        return CycleQD(context(seeds=SEEDS, children_per_batch=2))

    search = make()
    first = begun(search, basis, scripted)
    whole = run(search, first, tmp_path / "whole", scripted, stop=6)
    run(search, first, tmp_path / "parts", scripted, stop=2)
    with Checkpoints(tmp_path / "parts" / "checkpoints") as checkpoints:
        saved = checkpoints.restore()
    again = make()
    resumed = saved.into(begun(again, basis, scripted))
    resumed = run(again, resumed, tmp_path / "parts", scripted, stop=6)
    assert state_fingerprint(resumed) == state_fingerprint(whole)
    assert whole.bank.parents[3:6].tolist() == [[-1, -1]] * 3
    assert whole.bank.active[3:6].tolist() == [-1] * 3
    assert (whole.bank.parents[6:] >= 0).all()
    assert set(whole.memory.archives.kept_ids()) & {3, 4, 5}  # some are elites


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"seeds": [1.0, 1.0]}, "1.0 is there twice"),
        ({"seeds": [0.0]}, "greater than 0"),
        ({"seeds": ["ties"]}, "'uniform', 'tsv_m' or 'iso_c'"),
        ({"seeds": ["tsv_m"]}, "expected svd_child or svd_scale"),
    ],
)
def test_wrong_seeds_are_one_sentence(settings, said):
    with pytest.raises(ValidationError, match=said):
        QDSettings(**settings)
    kept = QDSettings(seeds=["tsv_m", "iso_c", 1.1], mutation="svd_child")
    assert kept.seeds == ("tsv_m", "iso_c", 1.1)


def test_more_seeds_than_children_are_refused_where_seeds_are_used(context):
    with pytest.raises(BadInputError, match="each seed is a child"):
        CycleQD(context(seeds=[1.0, 1.1], num_generations=1))
    RandomSearch(context(seeds=[1.0, 1.1], num_generations=1))


def test_accepted_replies_are_only_of_gradient_mutation():
    assert QDSettings(mutation="gradient", ascent_answers="accepted").ascends_accepted
    for mutation in ("svd", "none", "gaussian"):
        kept = QDSettings(mutation=mutation, ascent_answers="accepted")
        assert not kept.ascends_accepted
        assert not CycleQD.uses_accepted(kept, {})
