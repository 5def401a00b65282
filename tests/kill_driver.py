"""Runs the main command and kills the process at a chosen moment, as kill -9 does.

    python kill_driver.py MOMENT COUNT [arguments of experiments.agent_skills]

At the COUNT-th time that MOMENT comes, the process sends itself SIGKILL.
"""

import importlib
import os
import signal
import sys
import threading
import time

# moment -> (module, object the function belongs to, function, kill before or after)
MOMENTS = {
    "experts written": ("cycleqd_jax.comparison", None, "write_episodes", "after"),
    "batch evaluated": ("cycleqd_jax.loop", None, "tell", "before"),
    "results written": ("cycleqd_jax.loop", None, "write_episodes", "after"),
    "metrics half written": ("cycleqd_jax.io.files", "os", "replace", "before"),
    "checkpoint half written": (
        "cycleqd_jax.io.checkpoints",
        "Checkpoints",
        "save",
        "amid",
    ),
    "checkpoint written": (
        "cycleqd_jax.io.checkpoints",
        "Checkpoints",
        "save",
        "after",
    ),
    "state written": ("cycleqd_jax.comparison", "files", "write_sealed", "after"),
    "report half written": (
        "cycleqd_jax.reports.build",
        None,
        "write_report",
        "before",
    ),
}


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_when_changed(folder) -> None:
    """Kills as soon as a new checkpoint begins to appear."""
    before = set(os.listdir(folder))
    while not set(os.listdir(folder)) - before:
        time.sleep(0.0001)
    kill()


def arm(moment: str, count: int) -> None:
    module, owner, name, when = MOMENTS[moment]
    target = importlib.import_module(module)
    target = getattr(target, owner) if owner else target
    original = getattr(target, name)
    left = count

    def wrapped(*args, **kwargs):
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            kill()
        if left == 0 and when == "amid":
            folder = args[0]._folder
            threading.Thread(target=kill_when_changed, args=[folder]).start()
        result = original(*args, **kwargs)
        if left == 0 and when == "after":
            kill()
        return result

    setattr(target, name, wrapped)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    from experiments import agent_skills

    sys.exit(agent_skills.main(sys.argv[3:]))
