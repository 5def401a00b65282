"""Answers that cheat, break or burn: none is right that would not be right honestly."""

# ruff: noqa: E501 - one line per answer

import asyncio
import json
import textwrap
import time

import pytest

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.base import Ending, Execution
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.sandbox.settings import SandboxSettings
from cycleqd_jax.tasks.base import Outcome
from cycleqd_jax.tasks.coding import calls
from cycleqd_jax.tasks.coding.calls import SetLimits, read_report
from cycleqd_jax.tasks.coding.compare import Rules
from cycleqd_jax.tasks.coding.judge import time_limits

DOUBLE, PARTS, DIFF, CHECK = "Mbpp/9001", "Mbpp/9002", "Mbpp/9003", "Mbpp/9004"
LETTERS, MANY, APPEND = "Mbpp/9005", "Mbpp/9006", "Mbpp/9007"
ALWAYS = """
class Always({base}):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    __le__ = __lt__ = __ge__ = __gt__ = __eq__
    def __abs__(self): return self
    def __sub__(self, other): return self
"""
# Builtin functions as they were before those were taken away that EvalPlus takes away.
RAW = """
import importlib.util as u
spec = u.find_spec("posix")
raw = u.module_from_spec(spec)
spec.loader.exec_module(raw)
"""
# Reads the pipe that its parent reads, when both are told that there is something.
THIEF = (
    RAW
    + """
import select, threading, time
ends = []
for fd in range(64):
    try: ends.append(raw.open(f"/proc/{raw.getppid()}/fd/{fd}", raw.O_RDONLY | raw.O_NONBLOCK))
    except OSError: pass
def steal():
    while True:
        for fd in select.select(ends, [], [])[0]:
            try: raw.read(fd, 2**20)
            except OSError: pass
for _ in range(4): threading.Thread(target=steal, daemon=True).start()
def double(n):
    time.sleep(0.05)
    return n * 3
"""
)

WRONG = {
    "equal to everything": (DOUBLE, ALWAYS.format(base="object") + "def double(n): return Always()"),
    "a number equal to everything": (DOUBLE, ALWAYS.format(base="int") + "def double(n): return Always(7)"),
    "a list equal to everything": (PARTS, ALWAYS.format(base="list") + "def parts(xs): return Always([9])"),
    "a text equal to everything": (LETTERS, ALWAYS.format(base="str") + "def letters(s): return Always('x')"),
    "a dictionary equal to everything": (LETTERS, ALWAYS.format(base="dict") + "def letters(s): return Always()"),
    "elements equal to everything": (DIFF, ALWAYS.format(base="int") + "def Diff(a, b): return [Always(5)] * 2"),
    "a class with a changed type name": (DOUBLE, "class int:\n    pass\ndef double(n): return int()"),
    "a generator where a list is asked for": (PARTS, "def parts(xs): return (x / 3 for x in xs)"),
    "a map where a list is asked for": (PARTS, "def parts(xs): return map(lambda x: x / 3, xs)"),
    "a filter": (PARTS, "def parts(xs): return filter(None, [x / 3 for x in xs])"),
    "a range": (PARTS, "def parts(xs): return range(3)"),
    "an endless iterator": (PARTS, "import itertools\ndef parts(xs): return itertools.count()"),
    "an endless iterator as a set": (DIFF, "import itertools\ndef Diff(a, b): return itertools.repeat(1)"),
    "endless memory": (DOUBLE, "def double(n):\n    return ['x' * 2**20 + str(i) for i in range(10**5)]"),
    "a huge output": (PARTS, "def parts(xs): return [0.5] * 10**7"),
    "a huge number": (DOUBLE, "def double(n): return 1 << 10**8"),
    "a deep output": (PARTS, "def parts(xs):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x"),
    "a cyclic output": (PARTS, "def parts(xs):\n    x = []\n    x.append(x)\n    return x"),
    "endless recursion": (DOUBLE, "def double(n): return double(n) + 1"),
    "a raised limit and endless recursion": (DOUBLE, "import sys\nsys.setrecursionlimit(10**9)\ndef double(n): return double(n) + 1"),
    "exit at once": (DOUBLE, "import os\nos._exit(0)"),
    "sys.exit in the call": (DOUBLE, "import sys\ndef double(n): sys.exit(0)"),
    "exit in the call": (DOUBLE, "import os\ndef double(n): os._exit(0)"),
    "an abort": (DOUBLE, "import os\ndef double(n): os.abort()"),
    "kill the parent": (DOUBLE, RAW + "def double(n):\n    raw.kill(raw.getppid(), 9)\n    return n * 2"),
    "kill everybody": (DOUBLE, RAW + "def double(n):\n    raw.kill(-1, 9)\n    return n * 2"),
    "stop the parent": (DOUBLE, RAW + "import time\ndef double(n):\n    raw.kill(raw.getppid(), 19)\n    time.sleep(1000)"),
    "stop everybody": (DOUBLE, RAW + "import time\ndef double(n):\n    raw.kill(-1, 19)\n    time.sleep(1000)"),
    "read what the parent reads": (DOUBLE, THIEF),
    "an endless loop": (DOUBLE, "def double(n):\n    while True: pass"),
    "an endless loop that catches all": (DOUBLE, "def double(n):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass"),
    "an endless loop while loading": (DOUBLE, "while True: pass\ndef double(n): return n * 2"),
    "sleep": (DOUBLE, "import time\ndef double(n):\n    time.sleep(5)\n    return n * 2"),
    "wait for a process that works": (DOUBLE, RAW + "def double(n):\n    pid = raw.fork()\n    while not pid: pass\n    raw.waitpid(pid, 0)\n    return n * 2"),
    "signals blocked": (DOUBLE, "import signal\nsignal.pthread_sigmask(0, range(1, 65))\ndef double(n):\n    while True: pass"),
    "close everything": (DOUBLE, "import os\ndef double(n):\n    os.closerange(0, 200)\n    return n * 2"),
    "a fork in the call": (DOUBLE, RAW + "def double(n):\n    raw.fork()\n    return n * 3"),
    "a fork": (DOUBLE, "import os\ndef double(n):\n    os.fork()\n    return n * 2"),
    "a file": (DOUBLE, "def double(n):\n    open('answer').close()\n    return n * 2"),
    "a command": (DOUBLE, "import os\ndef double(n):\n    os.system('true')\n    return n * 2"),
    "a program": (DOUBLE, "import subprocess\ndef double(n):\n    subprocess.run(['true'])\n    return n * 2"),
    "bytes of a stream": (DOUBLE, "import sys\nread = sys.stdin.buffer.readline\ndef double(n): return n * 2"),
    "limits": (DOUBLE, "import resource\ndef double(n): return n * 2"),
    "write to all descriptors": (DOUBLE, "import os\ndef double(n):\n    for fd in range(3, 60):\n        try: os.write(fd, b'T' * 999)\n        except OSError: pass\n    return n * 2"),
    "flood all descriptors": (DOUBLE, "import os\ndef double(n):\n    while True:\n        for fd in range(3, 60):\n            try: os.write(fd, b'0 2\\n')\n            except OSError: pass"),
    "other builtins": (DOUBLE, "import builtins\ndef double(n):\n    builtins.len = builtins.type = builtins.isinstance = builtins.issubclass = None\n    return n * 3"),
    "another encoder": (DOUBLE, "import sys\nsys.modules['__main__'].encode = lambda *a: 'true'\ndef double(n): return n * 3"),
    "an encoder that gives no text": (DOUBLE, "import sys\nsys.modules['__main__'].encode = lambda *a: '\\n' * 5\ndef double(n): return n * 2"),
    "a wrong name": (DOUBLE, "def Double(n): return n * 2"),
    "a code without end": (DOUBLE, f"def double(n): return n * 2 # {'x' * 2**25}"),
    "no function": (DOUBLE, "double = 3"),
    "read what nobody says": (DOUBLE, "import sys\nsys.stdin.read()\ndef double(n): return n * 2"),
    "wait for the end of the input": (DOUBLE, "def double(n):\n    try: input()\n    except EOFError: pass\n    return n * 2"),
    "None": (CHECK, "def check_str(s): return None"),
    "a null character": (DOUBLE, "def double(n): return n * 2 \0"),
}  # fmt: skip

RIGHT = {
    "a kind of int that is right": (DOUBLE, ALWAYS.format(base="int") + "def double(n): return Always(n * 2)"),
    "a generator where a set is asked for": (DIFF, "def Diff(a, b): return (x for x in a if x not in b)"),
    "a map where a set is asked for": (DIFF, "def Diff(a, b): return map(lambda x: x, set(a) - set(b))"),
    "a tuple where a set is asked for": (DIFF, "def Diff(a, b): return tuple(set(a) - set(b)) * 2"),
    "changed inputs": (APPEND, "def append(xs, x):\n    out = xs + [x]\n    xs.clear()\n    return out"),
    "the inputs changed and returned": (APPEND, "def append(xs, x):\n    xs += [x]\n    return xs"),
    "prints a forged report": (DOUBLE, "def double(n):\n    print('end'); print('X' * 10**6)\n    return n * 2"),
    "prints what has no bytes": (DOUBLE, "def double(n):\n    print('\\ud800', flush=True)\n    return n * 2"),
    "many threads left behind": (DOUBLE, "import threading, time\ndef double(n):\n    for _ in range(40): threading.Thread(target=time.sleep, args=(60,)).start()\n    return n * 2"),
    "other standard streams": (DOUBLE, "import sys\nsys.stdout = sys.stderr = None\nsys.__stdout__ = object()\ndef double(n): return n * 2"),
    "a thread left behind": (DOUBLE, "import threading, time\ndef double(n):\n    threading.Thread(target=time.sleep, args=(60,)).start()\n    return n * 2"),
    "a child left behind": (DOUBLE, RAW + "import time\ndef double(n):\n    if raw.fork() == 0:\n        time.sleep(60); raw._exit(0)\n    return n * 2"),
    "what EvalPlus leaves": (DOUBLE, "import asyncio, inspect, io, multiprocessing, os, subprocess, tempfile\ndef double(n):\n    os.mkdir(f'd{n}'); io.open('f', 'w').close(); tempfile.mkdtemp(); inspect.stack(); os.getcwd()\n    return n * 2"),
    "a defaultdict": (LETTERS, "import collections\ndef letters(s):\n    d = collections.defaultdict(list)\n    for c in s: d[c] = [s.count(c)]\n    return d"),
    "a long output": (MANY, "def many(n): return [(i, 'x' * 9) for i in range(n)]"),
    "a match": (CHECK, "import re\ndef check_str(s): return re.search('^a', s)"),
    "a bool for a match": (CHECK, "def check_str(s): return s.startswith('a')"),
    "another marshal": (DOUBLE, "import marshal, os\nmarshal.dumps = lambda *a: b'T'\nos.write = print\ndef double(n): return n * 2"),
    "a main block": (DOUBLE, "def double(n): return n * 2\nif __name__ == '__main__':\n    raise SystemExit"),
    "a dataclass": (DOUBLE, "from dataclasses import dataclass\n@dataclass\nclass A:\n    n: 'int'\ndef double(n): return A(n * 2).n"),
}  # fmt: skip


@pytest.fixture(scope="module")
def results(answer, tmp_path_factory):
    """All of them in one go: name -> result."""
    from .conftest import MBPP_ROWS, Mbpp, TaskSettings

    path = tmp_path_factory.mktemp("rows") / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in MBPP_ROWS))
    task = Mbpp(TaskSettings(options={"data": str(path), "sanitizer": "reference"}))

    class AsItIs:  # the code is judged as it was written
        async def sanitize(self, code, entry_point):
            return code.partition('"""\n\n')[2]

        def close(self):
            pass

    task._sanitizer = AsItIs()
    cases = {**WRONG, **RIGHT}
    began = time.monotonic()
    got = answer(task, [(key, code) for key, code in cases.values()])
    # Those that are stopped for their wall-clock time keep all others waiting.
    assert time.monotonic() - began < calls._WALL_S
    return dict(zip(cases, got, strict=True))


@pytest.mark.parametrize("name", WRONG)
def test_a_hostile_answer_is_wrong(results, name):
    result = results[name]
    assert result.outcome is Outcome.WRONG, result.explanation
    assert result.metrics == {"base": 0.0, "plus": 0.0}
    assert "\n" not in result.explanation and len(result.explanation) < 600


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_stays_right(results, name):
    result = results[name]
    assert result.metrics == {"base": 1.0, "plus": 1.0}, result.explanation


FORGERIES = {
    "a report with other outputs": """
        data = b"cycleqd_jax coding 2\\n"
        for name in (b"base", b"plus"):
            data += b"set " + name + b" 3 done\\nloaded\\n0 true\\n0 true\\n"
        data += b"end\\n"
        """,
    "a time without end": "data = b'set base 2 done\\nloaded\\n' + b'9' * 999 + b' 2\\nend\\n'",
    "a time that is no number": "data = b'set base 2 done\\nloaded\\nx 2\\nend\\n'",
    "an output that is too long": "data = b'set base 2 done\\nloaded\\n0 \"' + b'x' * 2**23 + b'\"\\nend\\n'",
    "more lines than calls": "data = b'set base 9999999 done\\n' + b'0\\n' * 2**22",
    "rubbish": "data = b'x' * 1000",
    "line ends": "data = b'\\n' * 10**7",
    "a flood": "data = b'x' * 10**8",
    "an early end": "data = b'end\\n'",
    "another end": "data = b'end\\nend\\n'",
}  # fmt: skip


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_report_is_no_use(make_task, answer, kind):
    """Written straight into the parent's standard output."""
    code = textwrap.dedent(FORGERIES[kind]) + textwrap.dedent("""
        import os
        def double(n):
            fd = os.open(f"/proc/{os.getppid()}/fd/1", os.O_WRONLY)
            os.write(fd, data)
            return n * 2
    """)
    (result,) = answer(make_task(), [(DOUBLE, code)])
    assert result.outcome is Outcome.WRONG, result.explanation


def test_the_process_never_has_what_is_expected(make_task, script):
    """Neither outputs nor the reference solution are among what is handed over."""
    task = make_task()
    seen = []

    async def main():
        real = make_sandbox(
            SandboxSettings(kind="bubblewrap", workers=1, memoise=False)
        )

        class Watched:
            async def run(self, program):
                seen.append(program)
                return await real.run(program)

        chat = script("def letters(s):\n    return {'z': ['wrong', s]}")
        try:
            return await task.run(task.problem(LETTERS), chat, Watched())
        finally:
            await real.close()
            await task.aclose()

    result = asyncio.run(main())
    assert result.outcome is Outcome.WRONG
    *_, last = seen
    handed = b"".join(content for _, content in last.files) + last.stdin
    assert b"'z'" in handed and b"aab" in handed  # the answer and the inputs
    assert b"s.count" not in handed  # the reference solution
    names = [name for name, _ in last.files]
    assert names == ["main.py", "values.py", "answer", "request"]


def test_slow_machines_get_more_time(make_task, answer):
    task = make_task()
    answer(task, [(DOUBLE, "def double(n):\n    return n * 2")])
    truth = task._truths._known[DOUBLE]
    once, thrice = (time_limits(truth, Rules.EVALPLUS, times) for times in (1.0, 3.0))
    assert once["base"] == SetLimits((1.0, 1.0), 3.0, 3.0)
    assert thrice["base"] == SetLimits((3.0, 3.0), 9.0, 9.0)


def test_a_report_that_was_never_begun_is_the_sandbox(make_task):
    problem = make_task().data.problems[DOUBLE]
    failed = Execution(Ending.EXITED, 127, b"", b"python3: command not found")

    class NotFound:
        async def run(self, program):
            return failed

    with pytest.raises(SandboxError, match=r"Mbpp/9001.*command not found"):
        asyncio.run(calls.call(problem, "", {}, NotFound()))
    stopped = Execution(Ending.MEMORY_LIMIT, None, calls.GREETING, b"")
    assert read_report(problem, stopped)["base"].failure


class Killing:
    """A sandbox in which every program is killed, up to so many."""

    def __init__(self, inner, kills):
        self.inner, self.kills, self.programs = inner, kills, []

    async def run(self, program):
        self.programs.append(program)
        if len(self.programs) <= self.kills:
            return Execution(Ending.SIGNALLED, None, calls.GREETING, b"")
        return await self.inner.run(program)


@pytest.mark.parametrize("kills", [0, 1, 2])
def test_a_killed_program_is_run_once_more(make_task, kills):
    """A machine that has run out of memory is no fault of the answer's."""
    task = make_task()
    problem = task.data.problems[DOUBLE]
    limit = SetLimits((1.0,) * 2, 5.0, 5.0)

    async def main():
        sandbox = make_sandbox(
            SandboxSettings(kind="bubblewrap", workers=1, memoise=True)
        )
        killing = Killing(sandbox, kills)
        try:
            code = "def double(n):\n    return n * 2"
            limits = {"base": limit, "plus": limit}
            return await calls.call(problem, code, limits, killing), killing.programs
        finally:
            await sandbox.close()

    report, programs = asyncio.run(main())
    assert len(programs) == len(set(programs)) == min(kills, 1) + 1
    assert report["base"].killed is (kills == 2)
    assert bool(report["base"].failure) is (kills == 2)


def test_a_reference_solution_that_is_killed_is_the_environment(make_task):
    task = make_task()
    task._truths._slowness = 1.0
    with pytest.raises(SandboxError, match=r"Mbpp/9001.*out of memory"):
        asyncio.run(task._truths._compute(task.data.problems[DOUBLE], Killing(None, 9)))
