"""Removes the containers of runs that have ended, even by SIGKILL.

Each container has a label that says whose it is. `remove_leftovers` removes those whose
run has ended; it runs at the start of each run, and in a process of its own as soon as
a run has ended (this file is its program).
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import weakref

LABEL = "cycleqd.run"
_CALL_S = 60.0
_LOOKS, _PAUSE_S = 3, 1.0  # a container that is being made shows up later


def environment():
    """Variables of the engine's program: ours, without proxies, which it passes on."""
    return {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}


def own_mark():
    """Names this process among all that ever ran on this machine."""
    return _mark(os.getpid())


def _mark(pid):
    """The same for a process of ours.

    Raises:
      OSError: there is none.
    """
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    start = fields[19] if fields[0] not in "ZX" else "ended"
    return f"{boot}.{os.stat('/proc/self/ns/pid').st_ino}.{pid}.{start}"


def _ended(mark):
    """True if a mark names a process of this machine that has ended."""
    place, _, _ = mark.rpartition(".")
    place, _, pid = place.rpartition(".")
    if own_mark().split(".")[:2] != place.split("."):
        return False  # of another machine that uses the same engine: nobody knows
    try:
        return _mark(pid) != mark
    except OSError:
        return True


def remove_leftovers(engine):
    """Removes the containers of runs that have ended; how many there were.

    Args:
      engine: its program and first arguments.

    Raises:
      OSError, ValueError, subprocess.SubprocessError: the engine fails.
    """
    names = _ask(engine, "ps", "--all", "--quiet", f"--filter=label={LABEL}").split()
    gone = 0
    for name in names:
        with contextlib.suppress(subprocess.CalledProcessError):  # another was faster
            (found,) = json.loads(_ask(engine, "inspect", name))
            if _ended(found["Config"]["Labels"][LABEL]):
                _ask(engine, "rm", "--force", "--volumes", name)
                gone += 1
    return gone


def _ask(engine, *words):
    done = subprocess.run(
        [*engine, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=_CALL_S,
        env=environment(),
    )
    return done.stdout


class Watch:
    """A process that removes our containers if we end without removing them.

    It ends with this object, or `stop`.

    Args:
      engine: its program and first arguments.
    """

    def __init__(self, engine):
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us alone
            env=environment(),
        )
        self.stop = weakref.finalize(self, _stop, process)


def _stop(process):
    process.kill()
    process.wait()
    process.stdin.close()


def _watch(engine):
    sys.stdin.buffer.read()  # ends when our parent does
    for _ in range(_LOOKS):
        time.sleep(_PAUSE_S)
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
            remove_leftovers(engine)


if __name__ == "__main__":
    _watch(sys.argv[1:])
