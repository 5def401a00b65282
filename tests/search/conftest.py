"""A basis of random task vectors, and tasks that only have names and problems."""

import types

import numpy as np
import pytest
from named_task import NamedTask

from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.search.base import Context

TASKS = ("a", "b", "c")
TRAIN = {name: tuple(f"{name}/train/{i}" for i in range(4)) for name in TASKS}


@pytest.fixture(scope="session")
def basis():
    rng = np.random.default_rng(0)
    base = {"up.weight": rng.standard_normal((9, 6)).astype(np.float32)}
    experts = [
        types.SimpleNamespace(
            weights={n: w + rng.standard_normal(w.shape).astype(np.float32)
                     for n, w in base.items()}
        )
        for _ in TASKS
    ]  # fmt: skip
    return compute_basis(base, experts, expert_names=TASKS)


@pytest.fixture
def context(basis):
    def make(options=None, **qd):
        settings = QDSettings(**{"num_generations": 9, "children_per_batch": 3} | qd)
        return Context(settings, options or {}, basis, TASKS, TASKS, TRAIN)

    return make


@pytest.fixture
def tasks():
    return tuple(NamedTask(name) for name in TASKS)


def rule(individual, task, index):
    """How close a genome's share of the task's expert is to 0.6, in quarters."""
    share = float(np.asarray(individual.scales)[TASKS.index(task)])
    return float(abs(share - 0.6) < 0.15 * (index + 1))


@pytest.fixture
def scripted(tasks):
    from scripted import ScriptedEvaluator

    return ScriptedEvaluator(tasks, rule)


def likelihood(individual, task, index):
    """Rises to 0 as the share nears 0.6; task c has no reference answers."""
    share = float(np.asarray(individual.scales)[TASKS.index(task)])
    return float("nan") if task == "c" else -abs(share - 0.6) - 0.01 * index


def reading(individual, index):
    """Falls with the shares, the last the most, from the base's -2; text 1 gains."""
    change = float(np.asarray(individual.scales) @ np.asarray([1.0, 2.0, 3.0]))
    return -2.0 + (0.1 if index == 1 else -0.4) * change


@pytest.fixture
def reader(tasks):
    from scripted import ScriptedEvaluator

    return ScriptedEvaluator(tasks, rule, likelihood, reading)


@pytest.fixture
def seeing(tasks):
    from scripted import ScriptedEvaluator

    return ScriptedEvaluator(tasks, rule, likelihood)
