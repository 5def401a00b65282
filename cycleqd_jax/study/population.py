"""Measures of a whole population: hypervolume, and coverage by k models.

The hypervolume is the volume of all score vectors that some individual is at least as
good as. Coverage at k is the share of problems that at least one of k models solves: k
diverse individuals of one run, against k samples, above temperature 0, of its result.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from cycleqd_jax import files
from cycleqd_jax.chat import DEFAULT_CHAT, Chat, ChatOptions, Message, Reply
from cycleqd_jax.runs.diverse import choose
from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.base import Problem, Result, Task

DIVERSE_PART = "diverse-test"


def sample_part(sample: int) -> str:
    """The part of the results with one sample of the result; samples count from 0."""
    return f"sample-{sample:03d}-test"


def hypervolume(points: np.ndarray) -> float:
    """The volume between 0 and the points, exactly.

    Sums over slices of the last score, so its cost grows quickly with K.

    Args:
      points: float64 `[n, K]`, at least 0; more is better.
    """
    points = np.unique(np.asarray(points, np.float64), axis=0)
    if points.shape[1] == 1:
        return float(points.max(initial=0.0))
    front = np.zeros((0, points.shape[1]))
    for point in points[np.argsort(-points.sum(1), kind="stable")]:
        if not (front >= point).all(1).any():  # none before it is as good
            front = np.vstack([front, point])
    points = front[np.argsort(-front[:, -1], kind="stable")]
    below = np.append(points[1:, -1], 0.0)
    return sum(
        float(point[-1] - low) * hypervolume(points[: i + 1, :-1])
        for i, (point, low) in enumerate(zip(points, below, strict=True))
        if point[-1] > low
    )


def diverse(run: str | pathlib.Path, count: int) -> list[str]:
    """Names of individuals of a run that together solve most `optimise` problems.

    The first has the best mean; each further one adds most problems that none before it
    solves, and of equals has the best mean. Of individuals whose genomes were kept.

    Args:
      run: the folder of a finished run.
      count: their number, if there are as many.
    """
    opened = open_run(run, finished=True)
    kept = [n for n in opened.names() if n.startswith(("child/", "expert/"))]
    return choose(opened.path, kept, count)


def coverage(
    models: Sequence[Mapping[str, Mapping[str, float]]],
) -> float:
    """The mean over tasks of the share of problems that at least one model solves.

    Args:
      models: of each, scores by task and problem; the same problems.
    """
    shares = []
    for task, problems in models[0].items():
        solved = [any(m[task][p] == 1 for m in models) for p in problems]
        shares.append(np.mean(solved))
    return float(np.mean(shares))


class Sampled:
    """A task whose replies are drawn at a temperature; else the task itself."""

    def __init__(self, task: Task, temperature: float, sample: int):
        """Wraps a task.

        Args:
          task: the task.
          temperature: above 0.
          sample: its number; with the problem and the turn it is the seed.
        """
        self._task = task
        self._temperature = temperature
        self._sample = sample

    def __getattr__(self, name: str):
        return getattr(self._task, name)

    async def run(self, problem: Problem, chat: Chat, sandbox: Sandbox) -> Result:
        """Plays the episode with sampled replies."""

        async def draw(
            messages: Sequence[Message], options: ChatOptions = DEFAULT_CHAT
        ) -> Reply:
            text = f"{self._sample} {problem.id} {len(messages)}"
            seed = int(files.digest_of(text.encode())[:7], 16)
            drawn = {"temperature": self._temperature, "seed": seed}
            return await chat(messages, dataclasses.replace(options, **drawn))

        return await self._task.run(problem, draw, sandbox)
