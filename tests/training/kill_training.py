"""Runs the training command and kills the process at a chosen moment, as kill -9 does.

    python kill_training.py MOMENT COUNT [arguments of experiments.train_experts]

At the COUNT-th time that MOMENT comes, the process sends itself SIGKILL.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "support"))

import killing

from cycleqd_jax.training import experts, step, write
from cycleqd_jax.training.checkpoints import TrainCheckpoints
from cycleqd_jax.training.work_folder import WorkFolder

# moment -> (object, name of its function, kill before, amid or after the call)
MOMENTS = {
    "facts written": (experts, "write_facts", "after"),
    "step made": (step, "train_step", "after"),
    "checkpoint half written": (TrainCheckpoints, "save", "amid"),
    "checkpoint written": (TrainCheckpoints, "save", "after"),
    "expert half written": (write, "export_model", "before"),
    "expert put together": (WorkFolder, "finish", "before"),
    "expert in its place": (WorkFolder, "remove", "before"),
}


if __name__ == "__main__":
    killing.arm(*MOMENTS[sys.argv[1]], int(sys.argv[2]))
    from experiments import train_experts

    sys.exit(train_experts.main(sys.argv[3:]))
