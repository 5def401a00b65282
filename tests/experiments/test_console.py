"""How commands end: exit codes and sentences, whatever ended them."""

import asyncio
import errno
import io
import os
import signal
import subprocess
import sys

import pytest

from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.reports import console


def fail(error: BaseException):
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (BadInputError("seed is -1."), 2, "Bad input: seed is -1."),
        (RunError("it broke."), 1, "Failed: it broke.\nGo on."),
        (KeyboardInterrupt(), 130, "Interrupted. Go on."),
        (OSError(errno.ENOSPC, "", "a/b"), 1, "a/b: No space left on device.\nGo on."),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "was closed.\nGo on."),
        (MemoryError(), 1, "memory is used up.\nGo on."),
    ],
)
def test_every_end_is_a_sentence_and_a_code(error, code, words, capfd, monkeypatch):
    # The command mutes a closed output; the test's own must stay as it is.
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert console.guarded(fail(error), interrupted="Go on.") == code
    assert words in capfd.readouterr().err


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGTERM, 143, "Terminated"),
        (signal.SIGHUP, 129, "The terminal was closed"),
    ],
)
@pytest.mark.parametrize("where", ["plain", "asyncio"])
def test_signals_end_like_ctrl_c(number, code, word, where, capsys):
    ended = []

    async def waiting() -> int:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(60)
        finally:
            ended.append("tidily")
        return 0

    def command() -> int:
        if where == "asyncio":
            with asyncio.Runner() as runner:
                return runner.run(waiting())
        os.kill(os.getpid(), number)
        return 0

    former = signal.getsignal(number)
    assert console.guarded(command, interrupted="Go on with: x --resume") == code
    assert capsys.readouterr().err == f"\n{word}. Go on with: x --resume\n"
    assert signal.getsignal(number) is former
    assert ended == (["tidily"] if where == "asyncio" else [])


def test_a_closed_output_is_said_on_the_other_stream():
    """The reader of the output ends after one line, as `| head -1` does."""
    program = (
        "import sys, time; from cycleqd_jax.reports import console\n"
        "def command():\n"
        "    with console.ConsoleObserver() as observer:\n"
        "        for i in range(1000): observer.note(f'line {i}'); time.sleep(0.005)\n"
        "    return 0\n"
        "sys.exit(console.guarded(command, interrupted='Go on with --resume.'))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert "line 0" in process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 1
    assert error == "Failed: what read the output was closed.\nGo on with --resume.\n"
