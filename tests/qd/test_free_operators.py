"""Free crossover and `svd_all`: against dense float64 weights, alone and in a batch."""

import jax
import numpy as np
import pytest

from cycleqd_jax.merging.genome import expert_genome
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.qd.crossover import (
    FreeDraw,
    blend_shares,
    draw_free,
    free_shares,
    free_step,
)
from cycleqd_jax.qd.mutation import draw_all_steps
from cycleqd_jax.qd.propose import propose
from cycleqd_jax.qd.schedule import generation_keys
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.qd.variation import add

KINDS = pytest.mark.parametrize("kind", ["lora", "full", "mixed"])
FREE = QDSettings(crossover="free", mutation="svd_all")
UNION = FreeDraw(np.True_, np.zeros(3, np.float32))


def crossed(x1, x2, draw, basis, shares=None):
    """One child, as `propose` crosses parents."""
    experts_of = np.asarray(basis.experts_of)
    if shares is None:
        shares = free_shares(x1, x2, draw, experts_of)
    one, two = (jax.tree.map(lambda a: np.asarray(a)[None], x) for x in (x1, x2))
    return add(one, free_step(one, two, shares[None], experts_of))[0]


def scaled(basis, amounts):
    """The sum of experts with one factor each; has no matrix mixed in."""
    amounts = np.asarray(amounts, np.float32)
    coefficients = np.asarray(basis.singular_values) * amounts[basis.experts_of]
    return expert_genome(basis, 0).replace(coefficients=coefficients, scales=amounts)


def assert_weights(child, problem, amounts):
    got = materialise(problem.base, problem.basis, child)
    for name, base in problem.base.items():
        taus = zip(amounts, problem.taus, strict=True)
        want = base.astype(np.float64) + sum(a * tau[name] for a, tau in taus)
        np.testing.assert_allclose(got[name], want, atol=2e-5 * np.abs(want).max())


@KINDS
def test_the_union_of_two_experts_is_their_sum(make, kind):
    problem = make.problem(kind)
    basis = problem.basis
    for pair in ((0, 1), (1, 0), (2, 1)):
        x1, x2 = (expert_genome(basis, k) for k in pair)
        child = crossed(x1, x2, UNION, basis)
        assert_weights(child, problem, [float(k in pair) for k in range(3)])


@KINDS
@pytest.mark.parametrize("seed", range(4))
def test_free_crossover_equals_its_dense_definition(make, kind, seed):
    """Every expert's task vector by its own share, in float64."""
    problem = make.problem(kind, seed)
    amounts = np.random.default_rng(seed).uniform(-0.5, 1.5, (2, 3))
    x1, x2 = (scaled(problem.basis, row) for row in amounts)
    draw = draw_free(jax.random.key(seed), 3)
    draw = FreeDraw(np.bool_(seed % 2), np.asarray(draw.shares))
    if draw.is_union:
        want = np.where(np.abs(amounts[0]) < np.abs(amounts[1]), amounts[1], amounts[0])
    else:
        shares = np.asarray(draw.shares, np.float64)
        want = (1 - shares) * amounts[0] + shares * amounts[1]
    assert_weights(crossed(x1, x2, draw, problem.basis), problem, want)


def test_a_parent_crossed_with_itself_is_its_own_child(make):
    basis = make.problem("mixed").basis
    parent = make.genome(basis)
    for seed in range(10):
        draw = jax.device_get(draw_free(jax.random.key(seed), 3))
        child = crossed(parent, parent, draw, basis)
        np.testing.assert_array_equal(child.coefficients, parent.coefficients)
        np.testing.assert_array_equal(child.scales, parent.scales)


@KINDS
@pytest.mark.parametrize("seed", range(4))
def test_a_blend_equals_its_dense_definition(make, kind, seed):
    """Shares by the size of the parts; in float64, and as `propose` breeds it."""
    problem = make.problem(kind, seed)
    basis = problem.basis
    amounts = np.random.default_rng(seed).uniform(-0.5, 1.5, (2, 3))
    amounts[0, 1] = 0.0  # only the second parent has it
    amounts[:, 2] = 0.0  # neither has it
    x1, x2 = (scaled(basis, row) for row in amounts)
    sizes = np.abs(amounts) ** 8
    shares = [sizes[1, 0] / sizes[:, 0].sum(), 1.0, 0.0]
    got = blend_shares(x1, x2, np.asarray(basis.experts_of))
    np.testing.assert_allclose(got, shares, rtol=1e-5)
    want = (1 - got) * amounts[0] + got * amounts[1]
    child = crossed(x1, x2, None, basis, shares=got)
    assert_weights(child, problem, want)


def test_a_proposal_can_be_a_blend(make):
    basis = make.problem("mixed").basis
    archives, bank = make.run(basis)
    settings = QDSettings(crossover="blend", mutation="none")
    key, ts = jax.random.key(4), [1, 2, 3, 4]
    got = propose(archives, bank, basis, key, ts, settings=settings)
    owner = np.asarray(basis.experts_of)
    for i, t in enumerate(ts):
        x1, x2 = (bank.genome(int(p)) for p in got.parents[i])
        shares = blend_shares(x1, x2, owner).astype(np.float64)[owner]
        want = (1 - shares) * x1.coefficients + shares * x2.coefficients
        np.testing.assert_allclose(
            got.genomes.coefficients[i], want, rtol=1e-5, atol=1e-6
        )
        alone = propose(archives, bank, basis, key, [t], settings=settings)
        np.testing.assert_array_equal(
            alone.genomes.coefficients[0], got.genomes.coefficients[i]
        )


def test_half_of_the_children_are_unions_and_shares_are_uniform():
    keys = jax.random.split(jax.random.key(0), 4000)
    draws = jax.vmap(lambda key: draw_free(key, 3))(keys)
    assert np.mean(draws.is_union) == pytest.approx(0.5, abs=0.03)
    shares = np.asarray(draws.shares)
    assert 0 <= shares.min() and shares.max() < 1
    np.testing.assert_allclose(shares.mean(axis=0), 0.5, atol=0.02)
    assert np.abs(np.corrcoef(shares.T) - np.eye(3)).max() < 0.06


@KINDS
def test_svd_all_equals_its_dense_definition(make, kind):
    """Every expert's dense SVD, its components scaled by 1 + e + m + d."""
    problem = make.problem(kind, seed=2)
    basis = problem.basis
    parent = scaled(basis, [1.0, 1.0, 1.0])
    stds = (0.1, 0.15, 0.2)
    e, m, d = draw_all_steps(jax.random.key(1), basis.layout, stds=stds)
    steps = np.asarray(e, np.float64) + np.asarray(m) + np.asarray(d)
    moved = np.asarray(basis.singular_values) * steps.astype(np.float32)
    child = parent.replace(coefficients=parent.coefficients + moved)
    got = materialise(problem.base, basis, child)
    for slot in basis.layout:
        want = problem.base[slot.name].astype(np.float64)
        for k, tau in enumerate(problem.taus):
            u, s, vt = np.linalg.svd(tau[slot.name], full_matrices=False)
            start = slot.offset + k * slot.rank
            w = np.zeros_like(s)
            mine = steps[start : start + slot.rank]
            w[: mine.size] = mine[: s.size]
            want = want + (u * ((1 + w) * s)) @ vt
        atol = 2e-5 * np.abs(want).max()
        np.testing.assert_allclose(got[slot.name], want, atol=atol)


def test_svd_all_steps_are_shared_by_expert_and_by_matrix(make):
    basis = make.problem("mixed").basis
    owner = np.asarray(basis.experts_of)
    matrix = np.repeat(np.arange(len(basis.layout)), [s.size for s in basis.layout])
    e, m, d = map(
        np.asarray,
        draw_all_steps(jax.random.key(0), basis.layout, stds=(0.1, 0.2, 0.3)),
    )
    for k in range(3):
        assert len(set(e[owner == k])) == 1
        for j in range(len(basis.layout)):
            assert len(set(m[(owner == k) & (matrix == j)])) == 1
    assert len(set(e)) == 3 and len(set(m)) == 3 * len(basis.layout)
    assert len(set(d)) == d.size
    many = jax.vmap(lambda k: draw_all_steps(k, basis.layout, stds=(0.1, 0.2, 0.3)))
    drawn = many(jax.random.split(jax.random.key(1), 2000))
    for values, std in zip(drawn, (0.1, 0.2, 0.3), strict=True):
        assert np.mean(values) == pytest.approx(0, abs=0.02)
        assert np.std(values) == pytest.approx(std, rel=0.05)  # both signs


def test_children_do_not_depend_on_their_batch(make):
    basis = make.problem("mixed").basis
    state = (*make.run(basis), basis)
    key = jax.random.key(0)
    together = propose(*state, key, list(range(1, 7)), settings=FREE)
    for i in range(6):
        alone = propose(*state, key, [i + 1], settings=FREE)
        for name in ("coefficients", "scales"):
            np.testing.assert_array_equal(
                getattr(alone.genomes, name)[0], getattr(together.genomes, name)[i]
            )
    assert np.isnan(together.weights).all()


def test_a_proposal_is_crossed_then_moved(make):
    """propose() itself, against float64 on coefficients."""
    basis = make.problem("mixed").basis
    archives, bank = make.run(basis)
    key, ts = jax.random.key(4), list(range(1, 9))
    got = propose(archives, bank, basis, key, ts, settings=FREE)
    owner, s = np.asarray(basis.experts_of), np.asarray(basis.singular_values)
    unions = 0
    for i, t in enumerate(ts):
        keys = generation_keys(key, t)
        x1, x2 = (bank.genome(int(p)) for p in got.parents[i])
        draw = draw_free(keys.crossover, 3)
        unions += bool(draw.is_union)
        shares = free_shares(x1, x2, draw, owner).astype(np.float64)
        e, m, d = draw_all_steps(keys.mutation, basis.layout, stds=(0.1, 0.15, 0.15))
        steps = np.asarray(e, np.float64) + np.asarray(m) + np.asarray(d)
        c1, c2 = x1.coefficients, x2.coefficients
        want = (1 - shares)[owner] * c1 + shares[owner] * c2 + steps * s
        np.testing.assert_allclose(
            got.genomes.coefficients[i], want, rtol=1e-5, atol=1e-5
        )
        want = (1 - shares) * x1.scales + shares * x2.scales
        np.testing.assert_allclose(got.genomes.scales[i], want, rtol=1e-5, atol=1e-6)
    assert 0 < unions < len(ts)


@pytest.mark.parametrize("crossover", ["free", "blend"])
@pytest.mark.parametrize("mutation", ["svd_child", "svd_scale", "gaussian"])
def test_shares_per_expert_need_coefficients_of_one_expert_each(mutation, crossover):
    words = f"crossover is {crossover} and mutation is {mutation}"
    with pytest.raises(ValueError, match=words):
        QDSettings(crossover=crossover, mutation=mutation)
