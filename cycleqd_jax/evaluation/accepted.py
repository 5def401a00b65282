"""Right replies that individuals gave so far, as answers to learn from.

Diverse individuals solve different problems. What any of them solved, by verdict, is a
right answer for all of them, also where a task knows none.
"""

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

    def add(self, episodes: Iterable[Episode]) -> None:
        """Remembers the right replies among some episodes on `optimise`."""
        for e in episodes:
            counts = self._counts[e.task].get(e.problem)
            if counts is None or e.score < 1 or e.turns != 1 or not e.reply.strip():
                continue
            counts[e.reply] = counts.get(e.reply, 0) + 1

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
