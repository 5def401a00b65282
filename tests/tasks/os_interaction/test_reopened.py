"""A task serves several evaluators, one after another, each with its own sandbox."""

from benchmark_data import needs_data

from cycleqd_jax.tasks.base import Outcome
from tests.tasks.os_interaction.conftest import answer


@needs_data
def test_an_episode_after_the_end_of_an_evaluator(make_task, play):
    task = make_task()
    for _ in range(2):
        (result,) = play(task, [(task.problem(22), [answer("no")])])
        assert result.outcome is Outcome.SOLVED
