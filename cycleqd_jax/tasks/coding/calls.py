"""Running code on a problem's inputs in the sandbox: request out, outputs in."""

import dataclasses
import functools
import marshal
import pathlib
from collections.abc import Mapping

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.base import (
    Ending,
    Execution,
    Limits,
    Program,
    Sandbox,
)
from cycleqd_jax.tasks.coding._outputs import FULL_BYTES
from cycleqd_jax.tasks.coding.data import CodingProblem

SETS = ("base", "plus")
MEMORY_BYTES = 4 * 2**30  # EvalPlus's
# No user packages, no bytecode, one thread of NumPy's, and sets in one order, so that
# outputs are a function of the code.
_VARIABLES = ("PYTHONHASHSEED=0", "OPENBLAS_NUM_THREADS=1")
_PYTHON = ("env", *_VARIABLES, "python3", "-s", "-S", "-B", "main.py")
_GREETING = b"cycleqd_jax coding 1\n"
_END = b"end\n"
_HEADER, _HASH = 13, 32
_PROCESSES = 256  # threads too, which an answer may leave behind with every call
_OUTPUT_BYTES = 40 * 2**20  # two sets of at most 18 MiB, see `_runner`
# Only programs that stop the part of the runner that watches them get there.
_WALL_S = 240.0
_SPARE_CPU_S = 5.0
_ATTEMPTS = 2  # of what is killed, since that need not have been its own doing
_KILLED = "signal 9"
_STOPPED = {
    Ending.SIGNALLED: "it was killed by a signal",
    Ending.CPU_LIMIT: "it used up its CPU time",
    Ending.WALL_LIMIT: "it used up its time",
    Ending.OUTPUT_LIMIT: "it wrote too much output",
    Ending.MEMORY_LIMIT: "it used too much memory",
    Ending.ENTRIES_LIMIT: "it made too many files",
}


@dataclasses.dataclass(frozen=True)
class SetLimits:
    """Time limits of one set of inputs; CPU time and time spent waiting together.

    Attributes:
      calls_s: seconds of each call.
      load_s: seconds until the code has been executed.
      total_s: seconds of all.
    """

    calls_s: tuple[float, ...]
    load_s: float
    total_s: float


@dataclasses.dataclass(frozen=True)
class Output:
    """What one call gave.

    Attributes:
      kind: P, T, B or D, see `_outputs`.
      data: the content of the frame.
      cpu_s: CPU time as the called process says; only of trusted code worth something.
    """

    kind: str
    data: bytes
    cpu_s: float = 0.0

    @property
    def digest(self) -> bytes | None:
        """SHA-256 of a long plain value."""
        return self.data[:32] if self.kind in "BD" else None

    @property
    def plain(self) -> bytes | None:
        """Encoding of a plain value."""
        return {"P": self.data, "B": self.data[32:]}.get(self.kind)


@dataclasses.dataclass(frozen=True)
class SetOutputs:
    """What one set of calls gave.

    Attributes:
      outputs: of the calls that returned, in order.
      failure: why there are no more; empty if all returned.
    """

    outputs: tuple[Output, ...]
    failure: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What code did on a problem's inputs.

    Attributes:
      sets: by name; one that was not tried is missing.
      work_s: CPU seconds of a fixed piece of work, if it was asked for.
      killed: whether something was killed that no limit of ours kills: by the code
        itself, or by a machine that has run out of memory.
    """

    sets: Mapping[str, SetOutputs]
    work_s: float | None = None
    killed: bool = False


@functools.cache
def runner() -> tuple[tuple[str, bytes], ...]:
    """Name and content of the program's files."""
    folder = pathlib.Path(__file__).parent
    return (
        ("main.py", (folder / "_runner.py").read_bytes()),
        ("_outputs.py", (folder / "_outputs.py").read_bytes()),
    )


async def call(
    problem: CodingProblem,
    code: str,
    limits: Mapping[str, SetLimits],
    sandbox: Sandbox,
    *,
    as_set: bool = False,
    measure: bool = False,
) -> Report:
    """Runs code on the inputs of a problem.

    Args:
      problem: whose inputs and entry point.
      code: of anybody.
      limits: by set; a set that is missing is not tried.
      sandbox: runs it.
      as_set: whether an output may be any iterable of its elements.
      measure: whether to measure the fixed piece of work first.

    What is killed without a reason of ours is run once more: where it was the code's
    own doing it is killed again.

    Raises:
      SandboxError: the sandbox failed; its text names the problem.
    """
    program = _program(problem, code, limits, as_set, measure)
    for attempt in range(_ATTEMPTS):
        # Another program as far as a sandbox that remembers them can see.
        wall_s = program.limits.wall_s + attempt
        limited = dataclasses.replace(program.limits, wall_s=wall_s)
        try:
            execution = await sandbox.run(dataclasses.replace(program, limits=limited))
        except SandboxError as err:
            raise SandboxError(f"{problem.id}: {err}") from err
        report = read_report(problem, execution)
        if not report.killed:
            break
    return report


def _program(
    problem: CodingProblem,
    code: str,
    limits: Mapping[str, SetLimits],
    as_set: bool,
    measure: bool,
) -> Program:
    request: dict[str, object] = {
        "entry_point": problem.entry_point,
        "as_set": as_set,
        "measure": measure,
    }
    for name, limit in limits.items():
        request[name] = {
            "calls": problem.inputs[name],
            "limits": list(limit.calls_s),
            "load_s": limit.load_s,
            "total_s": limit.total_s,
        }
    files = (
        *runner(),
        ("answer", code.encode("utf-8", "replace")),
        ("request", marshal.dumps(request, 2)),
    )
    cpu_s = sum(limit.total_s for limit in limits.values()) + _SPARE_CPU_S
    return Program(
        _PYTHON,
        files=files,
        limits=Limits(
            cpu_s=cpu_s,
            wall_s=max(_WALL_S, 2 * cpu_s),
            memory_bytes=MEMORY_BYTES,
            processes=_PROCESSES,
            output_bytes=_OUTPUT_BYTES,
        ),
    )


def read_report(problem: CodingProblem, execution: Execution) -> Report:
    """Reads what the runner wrote.

    The code had every chance to write there too, so whatever is not a report is a
    failure of the code; but without the greeting it was never run.

    Raises:
      SandboxError: the runner did not begin.
    """
    if not execution.stdout.startswith(_GREETING):
        said = execution.stderr.decode("utf-8", "replace").strip()[-200:]
        raise SandboxError(
            f"{problem.id}: Python did not start in the sandbox (it ended with "
            f"{execution.ending}, {execution.exit_code}, and said {said!r})"
        )
    if not execution.ok:
        reason = _STOPPED.get(execution.ending, "it ended the program")
        return _failed(reason, killed=execution.ending is Ending.SIGNALLED)
    try:
        return _read(problem, execution.stdout[len(_GREETING) :])
    except ValueError:
        return _failed("it left no report")


def _failed(reason: str, killed: bool = False) -> Report:
    return Report({"base": SetOutputs((), reason)}, killed=killed)


def _read(problem: CodingProblem, data: bytes) -> Report:
    if not data.endswith(_END):
        raise ValueError("the end is missing")
    end = len(data) - len(_END)
    at, names, work_s = 0, list(SETS), None
    sets: dict[str, SetOutputs] = {}
    outputs: list[Output] = []
    error, killed = "", False
    while at < end:
        kind = chr(data[at])
        cpu_s = int.from_bytes(data[at + 1 : at + 9], "little") / 1e6
        size = int.from_bytes(data[at + 9 : at + _HEADER], "little")
        content = data[at + _HEADER : at + _HEADER + size]
        at += _HEADER + size
        if at > end:
            raise ValueError("a frame is cut off")
        if size > FULL_BYTES + _HASH:  # the runner sends none of these
            raise ValueError("a frame is too long")
        match kind:
            case "U" if size == 8:
                work_s = int.from_bytes(content, "little") / 1e6
            case "L":
                pass
            case "P" | "T" | "D" | "B" if names:
                if len(outputs) <= len(problem.inputs[names[0]]):  # one too many shows
                    outputs.append(Output(kind, content, cpu_s))
            case "E":
                error = "it failed with " + content.decode("utf-8", "replace")
            case "X" if names:
                name, reason = names.pop(0), content.decode("utf-8", "replace")
                calls = len(problem.inputs[name])
                failure = error or _why(reason, len(outputs), calls)
                sets[name] = SetOutputs(tuple(outputs), failure)
                outputs, error = [], ""
                killed = killed or reason == _KILLED
            case _:
                raise ValueError("an unknown frame")
    return Report(sets, work_s, killed)


def _why(reason: str, outputs: int, calls: int) -> str:
    """Why a set is not complete; empty if it is."""
    if reason == "done" and outputs == calls:
        return ""
    return {
        "time": "it took too long",
        "ended": "it ended the process",
        "malformed": "it wrote where it should not",
        "done": "it gave another number of outputs",
    }.get(reason, f"it was ended by {reason}")


def all_sets(problem: CodingProblem, limit: SetLimits) -> dict[str, SetLimits]:
    """The same limits for both sets; of a call it is the first one's."""
    first = limit.calls_s[0]
    return {
        name: dataclasses.replace(limit, calls_s=(first,) * len(problem.inputs[name]))
        for name in SETS
    }
