"""Gradients by coefficients: against finite differences and dense autodiff."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forward import full_logits
from numpy_llama import log_probabilities

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.inference import gradients as gradients_module
from cycleqd_jax.inference.gradients import (
    CoefficientGradients,
    check_differentiable,
)
from cycleqd_jax.inference.rows import Row
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.core_basis import core_basis
from cycleqd_jax.merging.forms import BasisSettings
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.models.llama.program import LlamaProgram

LENGTHS = [(7, 3), (17, 8), (12, 5), (30, 10), (17, 2)]  # tokens, learnt; two shapes


@pytest.fixture(scope="module")
def world(tiny_config):
    """A random model with a LoRA and a full fine-tune, embeddings and norms too."""
    rng = np.random.default_rng(0)
    base = {
        name: (1 + 0.1 * rng.standard_normal(shape)).astype(np.float32)
        if len(shape) == 1
        else 0.3 * rng.standard_normal(shape, np.float32)
        for name, shape in tiny_config.weight_shapes().items()
    }
    full = types.SimpleNamespace(
        weights={
            name: w + 0.1 * rng.standard_normal(w.shape, np.float32)
            for name, w in base.items()
        }
    )
    lora = types.SimpleNamespace(
        factors={
            name: types.SimpleNamespace(
                b=rng.standard_normal((w.shape[0], 2)).astype(np.float32),
                a=rng.standard_normal((2, w.shape[1])).astype(np.float32),
                scale=0.1,
            )
            for name, w in base.items()
            if "proj" in name
        }
    )
    basis = compute_basis(base, [full, lora], BasisSettings(rank=3, residual="drop"))
    weights = {name: jnp.asarray(w) for name, w in base.items()}
    return types.SimpleNamespace(
        config=tiny_config,
        program=LlamaProgram(tiny_config),
        weights=weights,
        bases={"diagonal": basis, "core": core_basis(basis)},
    )


def genome_of(basis, seed):
    rng = np.random.default_rng(seed)
    share = rng.uniform(0.2, 1.2, basis.genome_size)
    return Genome(
        (np.asarray(basis.summed_coefficients()) * share).astype(np.float32),
        rng.uniform(0, 1, basis.num_experts).astype(np.float32),
    )


def rows_of(config, genome, seed=0, lengths=LENGTHS):
    rng = np.random.default_rng(seed)
    return [
        Row(
            genome,
            tuple(rng.integers(0, config.vocab_size, length).tolist()),
            tuple(range(length - learnt, length)),
            float(rng.uniform(0.1, 0.5)),
        )
        for length, learnt in lengths
    ]


def gradients(world, form, num_genomes=4, num_tokens=48):
    return CoefficientGradients(
        world.program,
        world.bases[form],
        num_genomes=num_genomes,
        num_tokens=num_tokens,
    )


def dense(world, form, coefficients, scales):
    """The individual's weights in float64, by the definition of the basis."""
    basis = world.bases[form]
    weights = {n: np.asarray(w, np.float64) for n, w in world.weights.items()}
    for slot in basis.layout:
        own = coefficients[slot.offset : slot.offset + slot.size]
        u, v = (np.asarray(a[slot.name], np.float64) for a in (basis.u, basis.v))
        core = np.diag(own) if form == "diagonal" else own.reshape(-1, v.shape[1])
        weights[slot.name] = weights[slot.name] + u @ core @ v.T
    for name, deltas in basis.deltas.items():
        weights[name] = weights[name] + np.tensordot(scales, np.asarray(deltas), 1)
    return weights


def dense_loss(world, form, coefficients, scales, rows):
    weights = dense(world, form, coefficients, scales)
    total = 0.0
    for row in rows:
        known = log_probabilities(world.config, weights, list(row.tokens))
        total -= row.weight * sum(known[i - 1, row.tokens[i]] for i in row.learnt)
    return total


@pytest.mark.parametrize("form", ["diagonal", "core"])
def test_equal_finite_differences_in_float64(world, form):
    """Along 12 coefficients and 3 random directions; to 1e-4 of the largest slope."""
    basis, genome = world.bases[form], genome_of(world.bases[form], 1)
    rows = rows_of(world.config, 0)
    got = gradients(world, form)(world.weights, [genome], rows).gradients[0]
    rng = np.random.default_rng(2)
    ways = [np.eye(basis.genome_size)[i] for i in rng.choice(got.size, 12, False)]
    ways += list(rng.standard_normal((3, basis.genome_size)) / np.sqrt(got.size))
    c, scales = (
        np.asarray(a, np.float64) for a in (genome.coefficients, genome.scales)
    )
    step = 1e-4
    slopes = [
        (
            dense_loss(world, form, c + step * way, scales, rows)
            - dense_loss(world, form, c - step * way, scales, rows)
        )
        / (2 * step)
        for way in ways
    ]
    atol = 1e-4 * np.abs(got).max()
    np.testing.assert_allclose([got @ way for way in ways], slopes, atol=atol)
    assert np.abs(slopes).max() > 100 * atol


@pytest.mark.parametrize("form", ["diagonal", "core"])
def test_equal_autodiff_of_materialised_weights(world, form):
    """All coefficients, to 1e-4 of the largest; and the rows' log-probabilities."""
    basis, genome = world.bases[form], genome_of(world.bases[form], 1)
    rows = rows_of(world.config, 0, 3, [(17, 3), (17, 8), (17, 5)])
    tokens = jnp.asarray([row.tokens for row in rows])

    def loss(c):
        weights = dict(world.weights)
        for slot in basis.layout:
            own = c[slot.offset : slot.offset + slot.size]
            left, right = basis.factors(slot.name, own)
            weights[slot.name] = weights[slot.name] + left @ right.T
        for name, deltas in basis.deltas.items():
            weights[name] = weights[name] + jnp.tensordot(genome.scales, deltas, 1)
        known = jax.nn.log_softmax(full_logits(world.program, weights, tokens))
        logprobs = [
            sum(known[b, i - 1, row.tokens[i]] for i in row.learnt)
            for b, row in enumerate(rows)
        ]
        return -sum(r.weight * p for r, p in zip(rows, logprobs, strict=True)), logprobs

    slope = jax.jit(jax.grad(loss, has_aux=True))
    want, logprobs = slope(jnp.asarray(genome.coefficients))
    got = gradients(world, form)(world.weights, [genome], rows)
    atol = 1e-4 * float(jnp.abs(want).max())
    np.testing.assert_allclose(got.gradients[0], want, atol=atol)
    np.testing.assert_allclose(got.logprobs, logprobs, rtol=1e-5)


@pytest.mark.parametrize("form", ["diagonal", "core"])
def test_a_genome_gets_the_same_bits_alone_and_among_others(world, form):
    basis, compute = world.bases[form], gradients(world, form)
    genomes = [genome_of(basis, seed) for seed in range(4)]
    each = [rows_of(world.config, 0, seed, LENGTHS[: 2 + seed]) for seed in range(4)]
    together = compute(
        world.weights,
        genomes,
        [row._replace(genome=i) for i in range(4) for row in each[i]],
    )
    start = 0
    for i in range(4):
        alone = compute(world.weights, [genomes[i]], each[i])
        np.testing.assert_array_equal(alone.gradients[0], together.gradients[i])
        own = together.logprobs[start : start + len(each[i])]
        np.testing.assert_array_equal(alone.logprobs, own)
        start += len(each[i])
    assert together.gradients.dtype == np.float32
    assert len({row.tobytes() for row in together.gradients}) == 4


def test_a_longer_row_than_a_call_is_a_call_of_its_own(world):
    genome = genome_of(world.bases["diagonal"], 0)
    rows = rows_of(world.config, 0, 0, [(7, 3), (12, 9)])
    small = gradients(world, "diagonal", num_tokens=1)(world.weights, [genome], rows)
    large = gradients(world, "diagonal")(world.weights, [genome], rows)
    np.testing.assert_allclose(
        small.gradients, large.gradients, atol=1e-4 * np.abs(large.gradients).max()
    )


def test_what_has_no_gradient_is_refused(world):
    basis = world.bases["diagonal"]
    kept = basis.replace(residuals={"a": jnp.zeros((2, 1, 1))})
    with pytest.raises(BadInputError, match=r"basis\.residual is keep"):
        check_differentiable(kept)
    with pytest.raises(BadInputError, match=r"engine\.mesh has 4 devices"):
        check_differentiable(basis, 4)
    with pytest.raises(BadInputError, match="none of them changes a matrix"):
        check_differentiable(basis.replace(layout=()))
    compute = gradients(world, "diagonal", 1)
    genome = genome_of(basis, 0)
    with pytest.raises(ValueError, match="at most 1, got 2"):
        compute(world.weights, [genome, genome], [])
    noisy = genome.replace(noise=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="Gaussian noise, but genome 0 has"):
        compute(world.weights, [noisy], [])


def test_layers_are_recomputed_where_they_would_store_too_much(world, monkeypatch):
    genome = genome_of(world.bases["diagonal"], 0)
    rows = rows_of(world.config, 0, 0, LENGTHS)
    seen = []
    program_hidden = LlamaProgram.hidden

    def hidden(self, *args, recompute, **more):
        seen.append(recompute)
        return program_hidden(self, *args, recompute=recompute, **more)

    monkeypatch.setattr(LlamaProgram, "hidden", hidden)
    found = []
    for limit in (0, 2**40):
        monkeypatch.setattr(gradients_module, "STORED_BYTES", limit)
        jax.clear_caches()
        found.append(gradients(world, "diagonal")(world.weights, [genome], rows))
    assert set(seen[: len(seen) // 2]) == {True}
    assert set(seen[len(seen) // 2 :]) == {False}
    largest = np.abs(found[0].gradients).max()
    np.testing.assert_allclose(
        found[0].gradients, found[1].gradients, atol=1e-5 * largest
    )
    np.testing.assert_allclose(found[0].logprobs, found[1].logprobs, rtol=1e-5)
