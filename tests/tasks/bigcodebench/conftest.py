"""Made-up problems in BigCodeBench's format, and scripted replies to them."""

import asyncio
import json

import pytest

from cycleqd_jax.chat import DEFAULT_CHAT, Reply
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.sandbox.settings import SandboxSettings
from cycleqd_jax.tasks.base import Split, TaskSettings
from cycleqd_jax.tasks.bigcodebench.task import BigCodeBench


def row(number, libs, imports, head, doc, solution, test):
    """A row with the fields and the layout of the published data set."""
    docstring = f'    """\n    {doc}\n    """\n'
    return {
        "task_id": f"BigCodeBench/{number}",
        "complete_prompt": f"{imports}\n\n{head}\n{docstring}",
        "instruct_prompt": f"{doc}\nYou should write self-contained code starting with:"
        f"\n```\n{imports}\n{head}\n```",
        "canonical_solution": solution,
        "code_prompt": f"{imports}\n{head}\n",
        "test": test,
        "entry_point": "task_func",
        "doc_struct": json.dumps({"description": [doc]}),
        "libs": repr(libs),
    }


SORTED = row(
    0,
    ["itertools", "random"],
    "import itertools\nfrom random import shuffle",
    "def task_func(numbers=list(range(1, 3))):",
    "Counts the permutations of the numbers, shuffled first.",
    "    shuffle(numbers)\n    return len(list(itertools.permutations(numbers)))",
    """import unittest
from unittest.mock import patch
class TestCases(unittest.TestCase):
    def test_default(self):
        self.assertEqual(task_func(), 2)
    @patch("random.shuffle", side_effect=lambda x: None)
    def test_four(self, mocked):
        self.assertEqual(task_func([1, 2, 3, 4]), 24)
    def test_type(self):
        with self.assertRaises(TypeError):
            task_func(3)
""",
)
FILES = row(
    1,
    ["os", "subprocess"],
    "import os\nimport subprocess",
    "def task_func(path, text):",
    "Writes the text to the path and prints it with cat; returns what was printed.",
    """    with open(path, "w") as file:
        file.write(text)
    print("written")
    return subprocess.run(["cat", path]).stdout.decode()""",
    """import io
import unittest
from contextlib import redirect_stdout
import tempfile
class TestCases(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
    def tearDown(self):
        self.folder.cleanup()
    def test_file(self):
        out = io.StringIO()
        with redirect_stdout(out):
            got = task_func(os.path.join(self.folder.name, "a.txt"), "ab")
        self.assertEqual(got, "ab")
        self.assertIn("written\\n", out.getvalue())
    def test_here(self):
        self.assertEqual(os.listdir("."), [])
        task_func("b.txt", "")
        self.assertTrue(os.path.isfile("b.txt"))
""",
)
ROWS = (SORTED, FILES)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Results of reference solutions are kept in a folder of the tests'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def make_task(tmp_path):
    """Makes the task of rows; all of them are `test` problems."""

    def make(rows=ROWS, sizes=None, **options):
        path = tmp_path / "BigCodeBench-v0.1.4.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))
        options = {"data": str(tmp_path), "split": "test", **options}
        sizes = {Split.TEST: 1} if sizes is None else sizes
        return BigCodeBench(TaskSettings(sizes=sizes, options=options))

    return make


class Script:
    """A chat that gives one reply and remembers what it was asked."""

    def __init__(self, text):
        self._text, self.asked = text, None

    async def __call__(self, messages, options=DEFAULT_CHAT):
        self.asked = (tuple(messages), options)
        return Reply(self._text)


@pytest.fixture(scope="session")
def script():
    return Script


@pytest.fixture(scope="session")
def in_sandbox():
    """Runs a function of a sandbox, which gives a coroutine."""

    def play(task, function):
        async def main():
            settings = SandboxSettings(kind="bubblewrap", workers=1, memoise=False)
            sandbox = make_sandbox(settings)
            try:
                return await function(sandbox)
            finally:
                await sandbox.close()
                await task.aclose()

        return asyncio.run(main())

    return play
