"""Runs the main command and kills the process at a chosen moment, as kill -9 does.

    python kill_driver.py MOMENT COUNT [arguments of experiments.agent_skills]

At the COUNT-th time that MOMENT comes, the process sends itself SIGKILL.
"""

import importlib
import sys

import killing

# moment -> (module, object the function belongs to, function, kill before or after)
MOMENTS = {
    "experts written": ("cycleqd_jax.runs.cached", None, "write_episodes", "after"),
    "log-probabilities written": (
        "cycleqd_jax.runs.loop",
        None,
        "write_logprobs",
        "after",
    ),
    "batch evaluated": ("cycleqd_jax.runs.batch", None, "mean_scores", "before"),
    "results written": ("cycleqd_jax.runs.loop", None, "write_episodes", "after"),
    "metrics half written": ("cycleqd_jax.files.disk", "os", "replace", "before"),
    "checksums half written": ("cycleqd_jax.files.disk", "os", "replace", "before"),
    "checkpoint half written": (
        "cycleqd_jax.runs.checkpoints",
        "Checkpoints",
        "save",
        "amid",
    ),
    "checkpoint written": (
        "cycleqd_jax.runs.checkpoints",
        "Checkpoints",
        "save",
        "after",
    ),
    "state written": ("cycleqd_jax.runs.comparison", None, "write_facts", "after"),
    "report half written": (
        "cycleqd_jax.reports.build",
        None,
        "write_report",
        "before",
    ),
}


def arm(moment: str, count: int) -> None:
    module, owner, name, when = MOMENTS[moment]
    target = importlib.import_module(module)
    killing.arm(getattr(target, owner) if owner else target, name, when, count)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    from experiments import agent_skills

    sys.exit(agent_skills.main(sys.argv[3:]))
