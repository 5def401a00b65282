import numpy as np
import pytest

from cycleqd_jax.merging.individuals import Recipe
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.qd.aggregation import (
    Contender,
    aggregate,
    aggregate_champions,
    choose_champions,
    choose_result,
    contenders,
    softmax,
)
from cycleqd_jax.qd.archives import empty_archives


@pytest.mark.parametrize("kind", ["lora", "full", "mixed"])
def test_equals_the_dense_definition(make, kind):
    """Softmax-weighted task vectors of three materialised champions, in float64."""
    problem = make.problem(kind)
    bank = make.run(problem.basis)[1]
    ids, qualities = [4, 0, 7], [0.9, 0.4, 0.65]
    result = aggregate(bank.gather(ids), qualities)
    got = materialise(problem.base, problem.basis, result.genome)
    powers = np.exp(qualities)
    beta = powers / powers.sum()
    np.testing.assert_allclose(result.beta, beta, rtol=1e-12)
    weights = [materialise(problem.base, problem.basis, bank.genome(i)) for i in ids]
    for name, base in problem.base.items():
        base = base.astype(np.float64)
        taus = [np.asarray(w[name], np.float64) - base for w in weights]
        want = base + sum(b * tau for b, tau in zip(beta, taus, strict=True))
        np.testing.assert_allclose(got[name], want, atol=1e-5 * np.abs(want).max())


def test_one_champion_is_its_own_sum(make):
    """Several are added; a recipe can only be alone."""
    bank = make.run(make.problem("lora").basis)[1]
    recipe = Recipe("ties", factor=1.0, density=0.5)
    bank = bank.add_child(recipe, [0.1, 0.2, 0.3])
    alone = aggregate_champions(bank, [4], [0.7])
    assert alone.genome is bank.genome(4) and alone.beta.tolist() == [1.0]
    last = bank.next_id - 1
    assert aggregate_champions(bank, [last], [0.7]).genome == recipe
    two = aggregate_champions(bank, [4, 0], [0.7, 0.2])
    want = aggregate(bank.gather([4, 0]), [0.7, 0.2])
    np.testing.assert_array_equal(two.genome.coefficients, want.genome.coefficients)
    with pytest.raises(KeyError, match="it is a recipe"):
        aggregate_champions(bank, [4, last], [0.7, 0.2])


def test_softmax_golden():
    np.testing.assert_allclose(softmax([0.0, 0.0]), [0.5, 0.5])
    np.testing.assert_allclose(
        softmax([1.0, 0.5, 0.0]), [0.50648, 0.3072, 0.18632], atol=1e-5
    )


def test_the_average_is_the_result_unless_a_champion_is_better():
    champions = {"a": (0.6, 0.2), "b": (0.5, 0.5), "c": (0.9, 0.1)}
    assert choose_result((0.4, 0.5), champions) == "b"
    assert choose_result((0.5, 0.5), champions) is None
    assert choose_result((0.1, 0.1), {"a": (0.3, 0.3), "b": (0.3, 0.3)}) == "a"


def test_champions_are_chosen_by_validation_and_ties_by_rank():
    groups = (
        (Contender(5, 0.9, 0), Contender(6, 0.8, 0), Contender(7, 0.8, 0)),
        (Contender(5, 0.7, 1), Contender(8, 0.6, 1)),
    )
    first = choose_champions(groups)
    assert [c.contender.individual for c in first] == [5, 5]
    assert [c.validated for c in first] == [None, None]
    validated = {5: (0.4, 0.5), 6: (0.6, 0.0), 7: (0.6, 0.0), 8: (0.9, 0.5)}
    chosen = choose_champions(groups, validated, by="quality")
    # Archive 0: 6 and 7 tie, 6 ranks first. Archive 1: a tie, 5 ranks first.
    assert [c.contender.individual for c in chosen] == [6, 5]
    assert [c.validated for c in chosen] == [0.6, 0.5]
    # By the mean over both tasks 5 is the best of archive 0, and 8 of archive 1.
    chosen = choose_champions(groups, validated, by="mean")
    assert [c.contender.individual for c in chosen] == [5, 8]
    assert [c.validated for c in chosen] == [0.45, 0.7]
    with pytest.raises(ValueError, match="scores of individual 8"):
        choose_champions(groups, {5: (1, 1), 6: (1, 1), 7: (1, 1)})


def test_a_group_without_a_task_is_judged_by_the_mean():
    groups = ((Contender(0, 0.5, None), Contender(1, 0.4, None)),)
    validated = {0: (0.9, 0.0), 1: (0.5, 0.6)}
    [chosen] = choose_champions(groups, validated, by="quality")
    assert chosen.contender.individual == 1 and chosen.validated == 0.55


def test_contenders_are_the_elites_of_each_archive_by_quality(make):
    archives, bank = make.run(make.problem("lora").basis, num_children=20)
    for task, row in enumerate(contenders(archives, bank)):
        assert {one.task for one in row} == {task}
        qualities = sorted(bank.scores[archives.ids(task), task], reverse=True)
        assert [one.quality for one in row] == qualities
    with pytest.raises(ValueError, match="archive 0 is empty"):
        contenders(empty_archives(archives.ranges, 5), bank)
