"""Hypervolume against inclusion and exclusion; coverage by hand; sampled tasks."""

import asyncio
import itertools

import numpy as np
import pytest

from cycleqd_jax.chat import DEFAULT_CHAT, Reply
from cycleqd_jax.study.population import Sampled, coverage, hypervolume
from cycleqd_jax.tasks.base import Problem


def union_volume(points):
    """The volume of a union of boxes by inclusion and exclusion."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for chosen in itertools.combinations(points, size):
            total -= (-1) ** size * np.prod(np.min(chosen, axis=0))
    return total


@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 5])
def test_hypervolume_is_the_volume_of_the_union_of_boxes(tasks):
    rng = np.random.default_rng(tasks)
    points = rng.integers(0, 5, (8, tasks)) / 4
    assert hypervolume(points) == pytest.approx(union_volume(points), abs=1e-12)


def test_hypervolume_of_many_points_by_counting():
    points = np.random.default_rng(0).random((200, 3))
    draws = np.random.default_rng(1).random((100_000, 3))
    inside = np.zeros(len(draws), bool)
    for point in points:
        inside |= (draws <= point).all(1)
    assert hypervolume(points) == pytest.approx(inside.mean(), abs=0.005)


def test_coverage_counts_problems_that_any_model_solves():
    first = {"a": {"1": 1.0, "2": 0.0}, "b": {"3": 0.0}}
    second = {"a": {"1": 0.0, "2": 0.0}, "b": {"3": 1.0}}
    assert coverage([first, second]) == pytest.approx((0.5 + 1.0) / 2)
    assert coverage([first]) == pytest.approx(0.25)


class Recording:
    name = "a"

    async def run(self, problem, chat, sandbox):
        await chat([{"role": "user", "content": "x"}])
        await chat([{"role": "user", "content": "x"}] * 3, DEFAULT_CHAT)


def test_a_sampled_task_draws_every_reply_with_a_seed_of_its_own():
    asked = []

    async def chat(messages, options=DEFAULT_CHAT):
        asked.append(options)
        return Reply("")

    for sample, problem in [(0, "1"), (1, "1"), (0, "2"), (0, "1")]:
        task = Sampled(Recording(), 0.5, sample)
        assert task.name == "a"
        asyncio.run(task.run(Problem(problem, "?", "!"), chat, None))
    assert {options.temperature for options in asked} == {0.5}
    seeds = [options.seed for options in asked]
    assert len(set(seeds)) == 6 and seeds[:2] == seeds[6:]
