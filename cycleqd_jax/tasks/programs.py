"""Python programs in the sandbox, as the tasks run them."""

import pathlib

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.base import Ending, Execution
from cycleqd_jax.tasks import values

# Without user and site packages and bytecode, NumPy with one thread. The hash seed
# fixes the order of sets, so that outputs depend on the code alone.
PYTHON = (
    *("env", "PYTHONHASHSEED=0", "OPENBLAS_NUM_THREADS=1"),
    *("python3", "-s", "-S", "-B", "main.py"),
)
# Lets a program import `values`.
VALUES = ("values.py", pathlib.Path(values.__file__).read_bytes())
_STOPPED = {
    Ending.EXITED: "",
    Ending.SIGNALLED: "it was killed by a signal",
    Ending.CPU_LIMIT: "it used up its CPU time",
    Ending.WALL_LIMIT: "it used up its time",
    Ending.OUTPUT_LIMIT: "it wrote too much output",
    Ending.MEMORY_LIMIT: "it used too much memory",
    Ending.ENTRIES_LIMIT: "it made too many files",
    Ending.REFUSED: "no program can be started with such an argument",
}


def not_started(execution: Execution) -> SandboxError:
    """The error for a program that has not written what it begins with."""
    said = execution.stderr.decode("utf-8", "replace").strip()[-200:]
    return SandboxError(
        f"Python did not start in the sandbox (it ended with {execution.ending}, "
        f"{execution.exit_code}, and said {said!r})"
    )


def why_stopped(execution: Execution) -> str:
    """Says why a program did not end by itself; empty if it did."""
    return _STOPPED[execution.ending]
