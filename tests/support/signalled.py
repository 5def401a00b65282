"""Commands in processes of their own, which signals are sent to."""

import os
import pathlib
import signal
import subprocess
import sys

TESTS = pathlib.Path(__file__).parents[1]
# A shell has Ctrl-C ignored in what it starts in the background, nohup SIGHUP, and
# children inherit that; here all are as in a terminal.
START = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
WORDS = {
    signal.SIGINT: "Interrupted.",
    signal.SIGTERM: "Terminated.",
    signal.SIGHUP: "The terminal was closed.",
}


def start(*arguments: str, folder: pathlib.Path | None = None) -> subprocess.Popen:
    """Starts Python with these arguments; the package and `tests/support` are found."""
    paths = [str(TESTS / "support"), str(TESTS.parent)]
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    return subprocess.Popen(
        [sys.executable, "-c", START, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wrong_end(process: subprocess.Popen, error: str, number: int) -> str:
    """What is wrong with the end of a command that got this signal; empty if nothing.

    Args:
      process: has ended.
      error: what it wrote to standard error.
      number: of the signal.
    """
    if process.returncode != CODES[number]:
        return f"exit code {process.returncode}, not {CODES[number]}"
    lines = error.strip().splitlines()
    if len(lines) != 1 or not lines[0].startswith(WORDS[number]):
        return f"it did not say {WORDS[number]!r} and no more"
    return ""
