"""The skills of particular settings: they are not in `BUILT_IN`, see the registry."""

import shutil

import pytest

from cycleqd_jax.tasks.base import Split, TaskSettings
from cycleqd_jax.tasks.registry import task_class

NEEDS_SQLITE3 = pytest.mark.skipif(
    shutil.which("sqlite3") is None, reason="the program sqlite3 is not installed"
)
COMPOSITE = (pytest.param("pocket_sqlshell", marks=NEEDS_SQLITE3), "pocket_pysql")
MORE = ("pocket_regex", "pocket_dialect_a", "pocket_dialect_b", *COMPOSITE)
MORE_SIZES = dict.fromkeys(Split, 75)  # every template is there


@pytest.fixture(scope="session", params=MORE)
def more_task(request):
    """Each skill in turn, with one turn."""
    return task_class(request.param)(TaskSettings(0, MORE_SIZES))


@pytest.fixture(scope="session", params=COMPOSITE)
def composite(request):
    """Each composite skill in turn, with one turn."""
    return task_class(request.param)(TaskSettings(0, MORE_SIZES))


@pytest.fixture(scope="session")
def right_replies():
    """The replies of a right episode, also of a task that hands out no answers."""

    def replies(task, problem) -> list[str]:
        # Private on purpose: a search must not get at it.
        messages = task._right(problem)
        return [m["content"] for m in messages if m["role"] == "assistant"]

    return replies
