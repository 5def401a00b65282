"""Made-up problems in EvalPlus's format, and scripted replies to them."""

import asyncio
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from cycleqd_jax.chat import DEFAULT_CHAT, Reply
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.sandbox.settings import SandboxSettings
from cycleqd_jax.tasks.base import TaskSettings
from cycleqd_jax.tasks.coding.task import HumanEval, Mbpp


def mbpp_row(number: int, name: str, solution: str, base, plus, atol=0.0) -> dict:
    return {
        "task_id": f"Mbpp/{number}",
        "prompt": f'"""\nWrite a function.\nassert {name}(1) == 2\n"""\n',
        "entry_point": name,
        "canonical_solution": f"\n{solution}\n",
        "base_input": base,
        "plus_input": plus,
        "atol": atol,
        "contract": "",
        "assertion": "",
    }


MBPP_ROWS = (
    mbpp_row(
        9001, "double", "def double(n):\n    return n * 2", [[1], [2]], [[0], [-3]]
    ),
    mbpp_row(
        9002,
        "parts",
        "def parts(xs):\n    return [x / 3 for x in xs]",
        [[[1, 2]], [[3]]],
        [[[]], [[5, 6]]],
    ),
    mbpp_row(
        9003,
        "Diff",
        "def Diff(a, b):\n    return list(set(a) - set(b))",
        [[[1, 2, 3], [2]]],
        [[["a", "b"], []]],
    ),
    mbpp_row(
        9004,
        "check_str",
        "import re\ndef check_str(s):\n    return re.match('a', s)",
        [["abc"]],
        [["b"]],
    ),
    mbpp_row(
        9005,
        "letters",
        "def letters(s):\n    return {c: [s.count(c)] for c in s}",
        [["aab"]],
        [[""]],
    ),
    mbpp_row(
        9006,
        "many",
        "def many(n):\n    return [(i, 'x' * 9) for i in range(n)]",
        [[3]],
        [[60000]],
    ),
    mbpp_row(
        9007,
        "append",
        "def append(xs, x):\n    xs.append(x)\n    return xs",
        [[[1], 2], [[], 1]],
        [[[1], 2]],
    ),
)
HUMANEVAL_ROWS = (
    {
        "task_id": "HumanEval/0",
        "prompt": "from typing import List\n\n\ndef total(xs: List[int]) -> int:\n"
        '    """ Adds numbers.\n    >>> total([1, 2])\n    3\n    """\n',
        "entry_point": "total",
        "canonical_solution": "    return sum(xs)\n",
        "base_input": [[[1, 2]], [[]]],
        "plus_input": [[[5, -5, 9]]],
        "atol": 0,
        "contract": "",
        "test": "",
    },
    {
        "task_id": "HumanEval/32",
        "prompt": "import math\n\n\ndef poly(xs: list, x: float):\n"
        '    """ Value. """\n'
        "    return sum([c * math.pow(x, i) for i, c in enumerate(xs)])\n\n\n"
        'def find_zero(xs: list):\n    """ A root of the polynomial. """\n',
        "entry_point": "find_zero",
        "canonical_solution": "    return -xs[0] / xs[1]\n",
        "base_input": [[[1, 2]], [[-6, 3]]],
        "plus_input": [[[5, 4]]],
        "atol": 0.0001,
        "contract": "",
        "test": "",
    },
)
KINDS = {"mbpp": (Mbpp, MBPP_ROWS), "humaneval": (HumanEval, HUMANEVAL_ROWS)}


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Expected outputs are kept in a folder of the tests'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def write_rows(tmp_path):
    """Writes rows as a data file and returns its path."""

    def write(rows: Sequence[Mapping[str, Any]]) -> pathlib.Path:
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def make_task(write_rows):
    """Makes a task of made-up problems."""

    def make(name: str = "mbpp", *, sizes=None, seed=0, **options):
        kind, rows = KINDS[name]
        options = {"data": str(write_rows(rows)), "sanitizer": "reference", **options}
        return kind(TaskSettings(seed, sizes or {}, options=options))

    return make


class Script:
    """A chat that gives its replies in turn and remembers what it was asked."""

    def __init__(self, *replies: str):
        self._replies = list(replies)
        self.asked: list[tuple[tuple, Any]] = []

    async def __call__(self, messages, options=DEFAULT_CHAT) -> Reply:
        self.asked.append((tuple(messages), options))
        return Reply(self._replies[len(self.asked) - 1])


@pytest.fixture(scope="session")
def script():
    return Script


@pytest.fixture(scope="session")
def answers():
    """Results of tasks, each with its (problem key, replies) pairs, in one sandbox."""

    def play(tasks, kind="bubblewrap", memoise=False):
        async def one(task, key, replies, sandbox):
            replies = (replies,) if isinstance(replies, str) else replies
            chat = Script(*replies)
            return await task.run(task.problem(key), chat, sandbox)

        async def main():
            settings = SandboxSettings(kind=kind, workers=2, memoise=memoise)
            sandbox, found = make_sandbox(settings), []
            try:
                for task, episodes in tasks:
                    runs = [one(task, key, said, sandbox) for key, said in episodes]
                    found.append(await asyncio.gather(*runs))
                return found
            finally:
                await sandbox.close()
                for task, _ in tasks:
                    await task.aclose()

        return asyncio.run(main())

    return play


@pytest.fixture(scope="session")
def answer(answers):
    """Results of one task."""
    return lambda task, episodes, **more: answers([(task, episodes)], **more)[0]


@pytest.fixture(scope="session")
def ask_evalplus():
    """Calls EvalPlus's own functions, in a process without our filters of warnings."""
    oracle = pathlib.Path(__file__).with_name("evalplus_oracle.py")

    def ask(what: str, data: Any) -> Any:
        import marshal

        done = subprocess.run(
            [sys.executable, str(oracle), what],
            input=marshal.dumps(data),
            capture_output=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        return marshal.loads(done.stdout)

    return ask
