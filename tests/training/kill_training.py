"""Runs the training command and kills the process at a chosen moment, as kill -9 does.

    python kill_training.py MOMENT COUNT [arguments of experiments.train_experts]

At the COUNT-th time that MOMENT comes, the process sends itself SIGKILL.
"""

import os
import pathlib
import signal
import sys
import threading
import time

from cycleqd_jax.training import run, step
from cycleqd_jax.training.checkpoints import TrainCheckpoints
from cycleqd_jax.training.work_folder import WorkFolder

# moment -> (object, name of its function, kill before, amid or after the call)
MOMENTS = {
    "facts written": (run, "write_facts", "after"),
    "step made": (step, "train_step", "after"),
    "checkpoint half written": (TrainCheckpoints, "save", "amid"),
    "checkpoint written": (TrainCheckpoints, "save", "after"),
    "expert half written": (run, "export_model", "before"),
    "expert put together": (WorkFolder, "finish", "before"),
    "expert in its place": (WorkFolder, "remove", "before"),
}


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_when_changed(folder: pathlib.Path) -> None:
    """Kills as soon as a new checkpoint begins to appear."""
    before = set(os.listdir(folder))
    while not set(os.listdir(folder)) - before:
        time.sleep(0.0001)
    kill()


def arm(moment: str, count: int) -> None:
    owner, name, when = MOMENTS[moment]
    original = getattr(owner, name)
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

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    from experiments import train_experts

    sys.exit(train_experts.main(sys.argv[3:]))
