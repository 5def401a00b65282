"""A tiny merging problem with its dense float64 task vectors, and filled archives."""

import types

import jax
import numpy as np
import pytest

from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.genome import Genome, expert_genome
from cycleqd_jax.qd.archives import empty_archives
from cycleqd_jax.qd.bank import Bank

SHAPES = {"embed.weight": (11, 6), "norm.weight": (6,), "up.weight": (9, 6)}
KINDS = ("lora", "full", "mixed")
RANGES = ((0.0, 1.0),) * 3


def make_problem(kind, seed=0):
    rng = np.random.default_rng(seed)
    base = {n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}
    experts, taus = [], []
    for k in range(3):
        tau = {n: np.zeros(s) for n, s in SHAPES.items()}
        if kind == "full" or (kind == "mixed" and k == 1):
            noise = {n: 0.3 * rng.standard_normal(s) for n, s in SHAPES.items()}
            weights = {n: (base[n] + noise[n]).astype(np.float32) for n in base}
            tau = {n: weights[n].astype(float) - base[n].astype(float) for n in base}
            experts.append(types.SimpleNamespace(weights=weights))
        else:
            factors = {}
            for name in ("embed.weight", "up.weight")[: 1 + k % 2]:
                out, inner = SHAPES[name]
                b = rng.standard_normal((out, 2 + k)).astype(np.float32)
                a = rng.standard_normal((2 + k, inner)).astype(np.float32)
                factors[name] = types.SimpleNamespace(b=b, a=a, scale=0.5)
                tau[name] = 0.5 * b.astype(float) @ a.astype(float)
            experts.append(types.SimpleNamespace(factors=factors))
        taus.append(tau)
    basis = compute_basis(base, experts)
    return types.SimpleNamespace(base=base, experts=experts, taus=taus, basis=basis)


def random_genome(basis, seed=0, batch=()):
    rng = np.random.default_rng(seed)
    return Genome(
        rng.standard_normal((*batch, basis.genome_size)).astype(np.float32),
        rng.standard_normal((*batch, basis.num_experts)).astype(np.float32),
    )


def make_run(basis, num_children=8, seed=0, bins=5):
    """Experts and children with invented scores in bank and archives."""
    rng = np.random.default_rng(seed)
    archives, bank = empty_archives(RANGES, bins), Bank.empty(3)
    for k in range(3):
        scores = [0.8 if task == k else 0.1 for task in range(3)]
        bank = bank.add_expert(expert_genome(basis, k), scores)
        archives, _ = archives.offer(k, scores)
    for t in range(1, num_children + 1):
        scores = (rng.integers(0, 17, 3) / 16).tolist()
        parents = rng.choice(bank.next_id, 2, replace=False).tolist()
        archives, _ = archives.offer(bank.next_id, scores)
        bank = bank.add_child(
            random_genome(basis, seed=t),
            scores,
            parents=parents,
            weights=[1.0, 0.9],
            active=t % 3,
        )
    return archives, bank


@pytest.fixture
def make():
    """The builders above, as one object."""
    return types.SimpleNamespace(
        problem=make_problem, genome=random_genome, run=make_run, key=jax.random.key
    )
