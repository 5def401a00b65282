"""Whatever an episode does to its machine: a verdict, the right one, and in time."""

import time

import pytest

from cycleqd_jax.tasks.base import Outcome
from tests.support.benchmark_data import needs_data
from tests.tasks.os_interaction.conftest import bash
from tests.tasks.os_interaction.hostile import ANY, HOSTILE, RIGHT

pytestmark = needs_data
LONGEST_S = 150.0  # of an episode: a turn, and judging, on a busy machine


@pytest.mark.parametrize("name", HOSTILE)
def test_verdict(name, task, play):
    """As expected, and within the limits."""
    case = HOSTILE[name]
    start = time.monotonic()
    (result,) = play(task, [(task.problem(case.index), [bash(case.code), case.last])])
    assert time.monotonic() - start < LONGEST_S
    if case.expected != ANY:
        right = case.expected == RIGHT
        assert (result.outcome is Outcome.SOLVED) == right, result.explanation


def test_there_are_many():
    assert len({case.code for case in HOSTILE.values()}) >= 40
