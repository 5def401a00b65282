"""Right replies that individuals gave so far, as answers to learn from.

Diverse individuals solve different problems. What any of them solved, by verdict, is a
right answer for all of them, also where a task knows none.
"""

import collections
from collections.abc import Iterable, Sequence

from cycleqd_jax.evaluation.base import Episode, Replies
from cycleqd_jax.tasks.base import Problem, Split, Task, opening


class AcceptedReplies:
    """The replies to `optimise` problems that verdicts accepted.

    Only episodes of one reply count, on problems that open without one.
    """

    def __init__(self, tasks: Sequence[Task]):
        """Starts without replies.

        Args:
          tasks: in the order of the archives.
        """
        # task -> problem -> reply -> number of individuals, all in a fixed order
        self._counts: dict[str, dict[str, dict[str, int]]] = {
            task.name: {p.id: {} for p in one_reply_problems(task)} for task in tasks
        }
        self._tries: collections.Counter[tuple[str, str]] = collections.Counter()

    def add(self, episodes: Iterable[Episode]) -> None:
        """Remembers the right replies among some episodes on `optimise`."""
        for e in episodes:
            self._tries[e.task, e.problem] += 1
            counts = self._counts[e.task].get(e.problem)
            if counts is None or e.score < 1 or e.turns != 1 or not e.reply.strip():
                continue
            counts[e.reply] = counts.get(e.reply, 0) + 1

    def solved(self) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[float, ...]]]:
        """The problems with a right reply, and how much there is to learn from each.

        Returns:
          task name -> ids; and task name -> the share of the individuals on record that
          failed on each, at least 0.01.
        """
        ids = {task: tuple(own) for task, own in self.replies().items()}
        return ids, {
            t: tuple(self._failed(t, p) for p in own) for t, own in ids.items()
        }

    def _failed(self, task: str, problem: str) -> float:
        right, tries = self._counts[task][problem], self._tries[task, problem]
        return max(0.01, 1 - sum(right.values()) / tries)

    def replies(self) -> Replies:
        """Per solved problem the reply that most individuals gave, or the first such.

        Returns:
          task name -> problem id -> reply; tasks without any have no entry.
        """
        found = {
            task: {
                p: max(own, key=own.__getitem__) for p, own in problems.items() if own
            }
            for task, problems in self._counts.items()
        }
        return {task: own for task, own in found.items() if own}


def one_reply_problems(task: Task) -> list[Problem]:
    """The `optimise` problems of a task whose first reply may be the last."""
    return [
        problem
        for problem in task.problems(Split.OPTIMISE)
        if all(m["role"] != "assistant" for m in opening(task, problem))
    ]
