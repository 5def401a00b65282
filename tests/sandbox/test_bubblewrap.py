import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cycleqd_jax
from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox import bubblewrap
from cycleqd_jax.sandbox.base import Ending, Limits, Program
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox

ROOT = Path(cycleqd_jax.__file__).parents[1]


@pytest.fixture(scope="module")
def sandbox() -> BubblewrapSandbox:
    return BubblewrapSandbox(workers=3)


@pytest.fixture
def token() -> str:
    """A number of seconds to sleep that no other process sleeps."""
    return str(random.SystemRandom().randrange(10**7, 10**8))


def run(sandbox, *argv, **fields):
    return asyncio.run(sandbox.run(Program(argv, **fields)))


def sleepers(token: str) -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = file.read_bytes().split(b"\0")
            if words[:2] == [b"sleep", token.encode()]:
                found.append(str(file))
    return found


async def until(condition, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.02)


def test_harmless_program(sandbox):
    execution = run(sandbox, "python3", "-c", "print(input()[::-1])", stdin=b"abc\n")
    assert execution.ok
    assert (execution.stdout, execution.stderr) == (b"cba\n", b"")


def test_files_in_and_out(sandbox):
    files = (("in/x.txt", b"\0\xff"), ("empty/", b""), ("gone", b"1"), ("ü", b"u"))
    execution = run(
        sandbox,
        "bash",
        "-c",
        "cat in/x.txt in/x.txt > y; mkdir -p a/b; rm gone; test -d empty; rmdir empty",
        files=files,
        collect=True,
    )
    assert execution.ok, execution
    assert execution.files == {
        "in/x.txt": b"\0\xff",
        "y": b"\0\xff\0\xff",
        "a/b/": b"",
        "ü": b"u",
    }


def test_files_are_not_returned_unless_asked_for(sandbox):
    assert run(sandbox, "touch", "x").files == {}


def test_what_was_collected_can_be_given_back(sandbox):
    hostile = r"""
import os
for name in (b"\xff", b"a\nb", b"n" * 255): open(name, "w").write("x" * 5000)
for number in range(400): os.truncate(os.open("s%d" % number, 65), 2**14)
deep = b"d" * 240
for _ in range(30):
    os.mkdir(deep); os.chdir(deep); open("f", "w").write("deep")
"""
    limits = Limits(scratch_bytes=2**20, open_files=1000)
    first = run(sandbox, "python3", "-c", hostile, collect=True, limits=limits)
    assert first.ok, first.stderr
    assert len(first.files) > 20
    files = tuple(first.files.items())
    again = run(sandbox, "true", files=files, collect=True, limits=limits)
    assert again.files == first.files


def test_listings_of_two_runs_are_the_same(sandbox):
    files = (("a/b", b"x"), ("c/", b""))
    list_all = "sleep {}; ls -laR --time-style=full-iso"
    first, second = (
        run(sandbox, "sh", "-c", list_all.format(pause), files=files)
        for pause in ("0", "0.01")
    )
    assert first.stdout.count(b"2023-01-01 00:00:00") == 9
    assert first.stdout == second.stdout


def test_what_a_program_writes_has_real_times(sandbox):
    files = (("old", b""),)
    code = "touch new; find . -newer old; date +%Y; date -r new +%Y"
    names, folder, *years = run(sandbox, "sh", "-c", code, files=files).stdout.split()
    assert {names, folder} == {b".", b"./new"}
    assert years[0] == years[1]


def test_every_start_is_fresh(sandbox):
    for _ in range(2):
        execution = run(sandbox, "sh", "-c", "ls -A . /tmp; touch x /tmp/y")
        assert execution.stdout == b".:\n\n/tmp:\n"


def test_python_is_the_systems_where_there_is_one(sandbox):
    execution = run(sandbox, "python3", "-c", "import sys, sqlite3; print(sys.prefix)")
    if Path("/usr/bin/python3").exists():
        assert execution.stdout == b"/usr\n"
    assert execution.ok


@pytest.mark.parametrize(
    ("argv", "code"), [(("no-such-command",), 127), (("/etc",), 126), (("false",), 1)]
)
def test_exit_status_of_what_does_not_run(sandbox, argv, code):
    execution = run(sandbox, *argv)
    assert (execution.ending, execution.exit_code) == (Ending.EXITED, code)


def test_cpu_time_of_all_processes_decides_beside_load(sandbox):
    # 0.5 s of CPU time pass at a limit of 1.5 s and not at 0.25 s, however busy the
    # machine is with the other three.
    burn = "import time\nwhile time.process_time() < 0.5: pass"

    async def both():
        program = ("python3", "-c", burn)
        return await asyncio.gather(
            *(
                sandbox.run(Program(program, limits=Limits(cpu_s=cpu_s)))
                for cpu_s in (1.5, 0.25, 1.5, 0.25)
            )
        )

    endings = [execution.ending for execution in asyncio.run(both())]
    assert endings == [Ending.EXITED, Ending.CPU_LIMIT] * 2


def test_at_most_so_many_at_once(token):
    sandbox = BubblewrapSandbox(workers=2)

    async def many():
        runs = [
            asyncio.ensure_future(sandbox.run(Program(("sleep", token))))
            for _ in range(4)
        ]
        await until(lambda: len(sleepers(token)) == 2)
        await asyncio.sleep(0.2)
        most = len(sleepers(token))
        for task in runs:
            task.cancel()
        await asyncio.wait(runs)
        return most

    assert asyncio.run(many()) == 2
    assert sleepers(token) == []


def test_cancelling_leaves_nothing(sandbox, token):
    async def cancel():
        before = set(os.listdir("/proc/self/fd"))
        task = asyncio.ensure_future(sandbox.run(Program(("sleep", token))))
        await until(lambda: sleepers(token))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return before == set(os.listdir("/proc/self/fd"))

    assert asyncio.run(cancel())
    assert sleepers(token) == []
    assert run(sandbox, "true").ok


def test_close_stops_what_runs(token):
    sandbox = BubblewrapSandbox(workers=1)

    async def close():
        runs = [
            asyncio.ensure_future(sandbox.run(Program(("sleep", token))))
            for _ in range(2)
        ]
        await until(lambda: sleepers(token))
        await sandbox.close()
        return await asyncio.gather(*runs, return_exceptions=True)

    assert [type(error) for error in asyncio.run(close())] == [SandboxError] * 2
    assert sleepers(token) == []


def first_process(monitor: int) -> int:
    """The first process of a sandbox, whose bubblewrap this is."""
    file = Path(f"/proc/{monitor}/task/{monitor}/children")
    return int(file.read_text().split()[0])


def test_a_killed_sandbox_is_tried_again(sandbox, token, monkeypatch):
    monkeypatch.setattr(bubblewrap, "_PAUSE_S", 0.01)
    started = []
    popen = subprocess.Popen

    def start(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)

    async def killed(times):
        task = asyncio.ensure_future(sandbox.run(Program(("sleep", token))))
        for number in range(times):
            await until(lambda n=number: len(started) > n and sleepers(token))
            os.kill(first_process(started[-1].pid), signal.SIGKILL)
            await until(lambda: not sleepers(token))
        if times == 3:
            return await task
        await until(lambda: len(started) > times)
        task.cancel()
        return None

    asyncio.run(killed(1))
    started.clear()
    with pytest.raises(SandboxError, match="the sandbox has ended"):
        asyncio.run(killed(3))
    assert len(started) == 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"argv": ()}, "expected a command"),
        ({"argv": ("a\0b",)}, "NUL"),
        ({"files": (("../x", b""),)}, "inside the scratch folder"),
        ({"files": (("/x", b""),)}, "inside the scratch folder"),
        ({"files": (("", b""),)}, "inside the scratch folder"),
        ({"files": (("x/../../y", b""),)}, "inside the scratch folder"),
        ({"files": (("x" * 256, b""),)}, "too long"),
        ({"files": (("x/", b"1"),)}, "cannot have content"),
        ({"files": (("x", b"1"), ("x/y", b""))}, "both a file and a folder"),
        ({"files": (("x", bytes(2**26)),)}, "more than scratch_bytes"),
        ({"argv": ("x" * 2**17 + "\0",)}, "NUL"),
        (
            {"files": tuple((f"a/{n}", b"") for n in range(2**14))},
            "more than scratch_entries",
        ),
    ],
)
def test_programs_that_cannot_run(sandbox, fields, words):
    with pytest.raises(ValueError, match=words):
        asyncio.run(sandbox.run(Program(**{"argv": ("true",), **fields})))


BAD_WORDS = [
    (("a\0b",), "NUL"),
    (("\ud800",), "half of a surrogate pair"),
    (("x" * 2**17,), "131071 bytes in a word"),
    (["x" * 2**16] * 16, "1048576 in all"),
]


@pytest.mark.parametrize(("words", "why"), BAD_WORDS)
def test_an_argument_that_a_model_wrote_stops_nothing(sandbox, words, why):
    found = asyncio.run(sandbox.run(Program(("echo", *words))))
    assert (found.ending, found.exit_code, found.stdout) == (Ending.REFUSED, None, b"")
    assert why in found.stderr.decode() and not found.ok


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"argv": "sed -e p"}, "argv must be words, got 'sed -e p'"),
        ({"argv": ("sed", 3)}, "argv must be words"),
        ({"argv": ("sed",), "stdin": "text"}, "stdin must be bytes, got a str"),
    ],
)
def test_programs_of_the_wrong_types(fields, words):
    with pytest.raises(TypeError, match=words):
        Program(**fields)


def test_lower_limits_of_our_own_stay(token):
    # As in a cluster job: our own hard limits are below those of the program.
    script = f"""if True:
        import asyncio, resource
        from cycleqd_jax.sandbox.base import Program
        from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
        program = Program(("bash", "-c", "ulimit -n; ulimit -f; echo {token}"))
        print(asyncio.run(BubblewrapSandbox(1).run(program)).stdout)
    """
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"b'50\\n1024\\n{token}\\n'\n", done.stderr


def test_descriptors_of_ours_with_high_numbers_are_kept_out():
    # A program that has process 1's socket could report what it likes.
    script = """if True:
        import asyncio, os, resource
        from cycleqd_jax.sandbox.base import Program
        from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        ours = [os.open("/", os.O_RDONLY) for _ in range(1100)]
        program = Program(("ls", "/proc/self/fd"))
        print(asyncio.run(BubblewrapSandbox(1).run(program)).stdout.split())
    """
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[b'0', b'1', b'2', b'3']\n", done.stderr


def test_ctrl_c_is_for_us_alone(sandbox, token):
    # A terminal signals the whole foreground group, which must not hold the sandbox.
    def children():
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    async def groups():
        before = children()  # of other tests in this process
        task = asyncio.ensure_future(sandbox.run(Program(("sleep", token))))
        await until(lambda: sleepers(token))
        found = {os.getpgid(int(pid)) for pid in children() - before}
        task.cancel()
        await asyncio.wait([task])
        return found

    assert os.getpgid(0) not in asyncio.run(groups())
