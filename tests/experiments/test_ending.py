"""Signals: the promised exit code and one sentence, whatever the process is doing."""

import signal
import sys
import time

import pytest
from signalled import TESTS, start, wrong_end

from cycleqd_jax.reports import console

COMMANDS = sorted(
    path.stem
    for path in (TESTS.parent / "experiments").glob("*.py")
    if path.stem != "__init__"
)
BEGIN = """
import sys, time
from cycleqd_jax.reports import ending
ending.install()
def wait():
    print("ready", flush=True)
    time.sleep(60)
def wait_and_lose_it():
    try: wait()
    except BaseException: pass
"""
END = """
from cycleqd_jax.reports import console
sys.exit(console.guarded(command, interrupted="Go on."))
"""
MOMENTS = {
    "imports": "wait()",
    "work": "command = wait",
    "a callback": """
class Callback:
    def __del__(self): wait()
def command():
    Callback()
    return 0
""",
    "an except": """
def command():
    wait_and_lose_it()
    return 0
""",
    "an except and no end": """
ending.GRACE_S = 0.5
def command():
    wait_and_lose_it()
    time.sleep(60)
""",
    "an except that fails": """
def command():
    try: wait()
    except BaseException: raise OSError(5, "another failure")
""",
    "code in C": """
import hashlib
ending.GRACE_S = 0.5
def command():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000_000)
""",
    "asyncio": """
import asyncio
async def episode():
    print("ready", flush=True)
    try: await asyncio.sleep(60)
    finally: print("tidily")
def command(): asyncio.run(episode())
""",
    "threads that complain": """
import logging, threading
def complain():
    while not ending._ending._came: time.sleep(0.001)
    time.sleep(0.1)
    logging.error("a complaint")
    raise RuntimeError("a complaint")
def command():
    thread = threading.Thread(target=complain)
    thread.start()
    try: wait()
    finally: thread.join()
""",
    "a thread that is waited for at the exit": """
import threading
def late():
    time.sleep(0.5)
    wait()
def command():
    threading.Thread(target=late).start()
    return 0
""",
    "a function at the exit": """
import atexit
atexit.register(wait)
def command(): return 0
""",
}


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        *((moment, signal.SIGINT) for moment in MOMENTS),
        *((m, signal.SIGTERM) for m in ("imports", "work", "a callback", "asyncio")),
    ],
)
def test_a_signal_at_any_moment(moment, number):
    with start("-c", BEGIN + MOMENTS[moment] + END) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05)
        process.send_signal(number)
        output, error = process.communicate(timeout=30)
    assert not wrong_end(process, error, number), error
    assert ("Go on." in error) == (moment != "imports")
    assert output == ("tidily\n" if moment == "asyncio" else "")


def test_a_closed_terminal_where_nothing_was_installed_before():
    begin = BEGIN.replace("ending.install()", "")
    with start("-c", begin + MOMENTS["work"] + END) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        _, error = process.communicate(timeout=30)
    assert not wrong_end(process, error, signal.SIGHUP), error


def test_under_nohup_a_closed_terminal_is_none():
    nohup = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    work = """
def command():
    print("ready", flush=True)
    time.sleep(1)
    return 0
"""
    with start("-c", nohup + BEGIN + work + END) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, "")


def test_signals_go_to_who_had_them_before():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(n) for n in numbers], sys.unraisablehook
    assert console.guarded(lambda: 0, interrupted="") == 0
    assert ([signal.getsignal(n) for n in numbers], sys.unraisablehook) == before


def test_a_second_ctrl_c_ends_at_once():
    work = MOMENTS["an except and no end"].replace("0.5", "60")
    with start("-c", BEGIN + work + END) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=5)
    assert not wrong_end(process, error, signal.SIGINT), error  # the first one counts


def test_a_signal_to_a_fork_ends_the_fork_alone():
    work = """
import os, signal
def command():
    pid = os.fork()
    if pid == 0:
        wait()
    time.sleep(0.2)
    os.kill(pid, signal.SIGTERM)
    ended = os.waitpid(pid, 0)[1]
    time.sleep(0.2)
    return 7 if ended == signal.SIGTERM else 8
"""
    with start("-W", "ignore", "-c", BEGIN + work + END) as process:
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (7, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_hears_signals_during_its_imports(name):
    with start("-v", "-m", f"experiments.{name}", "--help") as process:
        # Python says which modules it imports.
        for line in process.stderr:
            if line.startswith("import 'jax"):
                break
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "\nInterrupted.\n" in error  # among what Python says
    assert "Traceback" not in error
