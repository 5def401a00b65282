import asyncio
import os

import pytest

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.base import Ending, Limits, Program
from cycleqd_jax.sandbox.none import UnsafeSandbox

LIMITS = Limits(cpu_s=1, wall_s=200, file_bytes=2**20)


@pytest.fixture
def sandbox(tmp_path, monkeypatch) -> UnsafeSandbox:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield UnsafeSandbox(workers=2)
    assert os.listdir(tmp_path) == []


def run(sandbox, *argv, **fields):
    return asyncio.run(sandbox.run(Program(argv, **{"limits": LIMITS, **fields})))


def test_files_and_streams(sandbox):
    execution = run(
        sandbox,
        "sh",
        "-c",
        "cat - a/b; echo err >&2; mkdir -p d/e; mv a/b c; ln -s /etc/passwd link",
        stdin=b"in ",
        files=(("a/b", b"file"),),
        collect=True,
    )
    assert execution.ok
    assert (execution.stdout, execution.stderr) == (b"in file", b"err\n")
    assert execution.files == {"a/": b"", "c": b"file", "d/e/": b""}


@pytest.mark.parametrize(
    ("command", "ending", "code"),
    [
        ("exit 137", Ending.EXITED, 137),
        ("kill -9 $$", Ending.SIGNALLED, None),
        ("while :; do :; done", Ending.CPU_LIMIT, None),
        ("yes", Ending.OUTPUT_LIMIT, None),
        ("head -c 2000000 /dev/zero > x", Ending.EXITED, 1),
        ("no-such-command", Ending.EXITED, 127),
    ],
)
def test_endings(sandbox, command, ending, code):
    execution = run(sandbox, "sh", "-c", command)
    assert (execution.ending, execution.exit_code) == (ending, code)


def test_wall_limit(sandbox):
    execution = run(sandbox, "sleep", "1000", limits=Limits(wall_s=0.2))
    assert execution.ending is Ending.WALL_LIMIT


def test_command_not_found(sandbox):
    assert run(sandbox, "no-such-command").exit_code == 127


def test_environment_is_cleared(sandbox, monkeypatch):
    monkeypatch.setenv("HOSTILE_SECRET", "1")
    assert b"HOSTILE" not in run(sandbox, "env").stdout


def test_closed(sandbox):
    async def main():
        await sandbox.close()
        await sandbox.run(Program(("true",)))

    with pytest.raises(SandboxError, match="closed"):
        asyncio.run(main())


def test_close_stops_what_runs(sandbox):
    async def main():
        task = asyncio.ensure_future(sandbox.run(Program(("sleep", "1000"))))
        await asyncio.sleep(0.2)
        await sandbox.close()
        return await task

    assert asyncio.run(main()).ending is Ending.SIGNALLED


def test_an_argument_that_a_model_wrote_stops_nothing(sandbox):
    assert run(sandbox, "echo", "a\0b").ending is Ending.REFUSED
