"""Runs a comparison and kills the process at a chosen moment, as kill -9 does.

    python kill_compare.py MOMENT COUNT [arguments of experiments.compare]

At the COUNT-th time that MOMENT comes, the process sends itself SIGKILL.
"""

import importlib
import sys

import killing

# moment -> (module, object the function belongs to, function, kill before or after)
MOMENTS = {
    "checkpoint written": (
        "cycleqd_jax.runs.checkpoints",
        "Checkpoints",
        "save",
        "after",
    ),
    "summary half written": (
        "cycleqd_jax.study.figures",
        None,
        "draw_tokens",
        "before",
    ),
}


if __name__ == "__main__":
    module, owner, name, when = MOMENTS[sys.argv[1]]
    target = importlib.import_module(module)
    target = getattr(target, owner) if owner else target
    killing.arm(target, name, when, int(sys.argv[2]))
    from experiments import compare

    sys.exit(compare.main(sys.argv[3:]))
