"""Whatever an episode does to its machine: a verdict, the right one, and in time."""

import time

import pytest

from cycleqd_jax.tasks.base import Outcome
from tests.support.benchmark_data import needs_data
from tests.tasks.os_interaction.conftest import bash
from tests.tasks.os_interaction.hostile import ANY, HOSTILE, RIGHT, SLOW

pytestmark = needs_data
LONGEST_S = 150.0  # of an episode: a turn, and judging, on a busy machine


def check(name, outcome, explanation):
    """Whether the verdict is as expected."""
    if HOSTILE[name].expected != ANY:
        right = HOSTILE[name].expected == RIGHT
        assert (outcome is Outcome.SOLVED) == right, explanation


@pytest.fixture(scope="module")
def results(task, play):
    """Results of all that take no time, played beside each other."""
    names = [name for name in HOSTILE if name not in SLOW]
    cases = [HOSTILE[name] for name in names]
    episodes = [(task.problem(c.index), [bash(c.code), c.last]) for c in cases]
    return dict(zip(names, play(task, episodes), strict=True))


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in SLOW])
def test_verdict(name, results):
    check(name, results[name].outcome, results[name].explanation)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_verdict_in_time(name, task, play):
    case = HOSTILE[name]
    start = time.monotonic()
    (result,) = play(task, [(task.problem(case.index), [bash(case.code), case.last])])
    assert time.monotonic() - start < LONGEST_S
    check(name, result.outcome, result.explanation)


def test_there_are_many():
    assert len({case.code for case in HOSTILE.values()}) >= 40
