"""Runs code on a problem's inputs in the sandbox and reads the report."""

import dataclasses
import io
import marshal
import pathlib
from collections.abc import Mapping

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.base import Ending, Execution, Limits, Program, Sandbox
from cycleqd_jax.tasks.coding.data import CodingProblem
from cycleqd_jax.tasks.programs import PYTHON, VALUES, not_started, why_stopped

SETS = ("base", "plus")
PROGRAM_FILES = (
    ("main.py", pathlib.Path(__file__).with_name("_runner.py").read_bytes()),
    VALUES,
)
MEMORY_BYTES = 4 * 2**30  # EvalPlus's
GREETING = b"cycleqd_jax coding 2\n"
_PROCESSES = 256  # with threads, which an answer may leave behind in every call
_OUTPUT_BYTES = 48 * 2**20  # two sets of at most 20 MiB, see `_runner`
# The program watches the answer itself, so only one that was stopped gets there.
_WALL_S = 240.0
_SPARE_CPU_S = 5.0
_ATTEMPTS = 2  # for a program that was killed, perhaps not by the answer
_KILLED = "signal-9"
_REASONS = {
    "time": "it took too long",
    "ended": "it ended the process",
    "output": "it wrote too much output",
    "done": "it gave another number of outputs",
}


@dataclasses.dataclass(frozen=True)
class SetLimits:
    """Time limits of one set of inputs: seconds of CPU time and waiting together.

    Attributes:
      calls_s: of each call.
      load_s: of running the code, before the first call.
      total_s: of everything.
    """

    calls_s: tuple[float, ...]
    load_s: float
    total_s: float


@dataclasses.dataclass(frozen=True)
class Output:
    """The output of one call.

    Attributes:
      text: the value, encoded by `cycleqd_jax.tasks.values`.
      cpu_s: CPU seconds, as the called process says; code that is not trusted may lie.
    """

    text: bytes
    cpu_s: float


@dataclasses.dataclass(frozen=True)
class SetOutputs:
    """The outputs of one set of calls.

    Attributes:
      outputs: of the calls that returned, in order.
      failure: why there are no more; empty if all returned.
      killed: whether the process was killed, but not at a limit of ours: by the code
        itself, or because the machine has run out of memory.
    """

    outputs: tuple[Output, ...]
    failure: str
    killed: bool = False


Report = dict[str, SetOutputs]  # by name of the set, without those not tried


async def call(
    problem: CodingProblem,
    code: str,
    limits: Mapping[str, SetLimits],
    sandbox: Sandbox,
    *,
    as_set: bool = False,
) -> Report:
    """Runs code on the inputs of a problem.

    A program that is killed, though not at a limit, runs once more: if the code itself
    did it, it will do it again.

    Args:
      problem: whose inputs and entry point.
      code: anybody's.
      limits: by set; a set that is not named is not tried.
      sandbox: runs the program.
      as_set: whether any iterable of the right elements is an output.

    Raises:
      SandboxError: the sandbox failed; the text names the problem.
    """
    program = _program(problem, code, limits, as_set)
    for attempt in range(_ATTEMPTS):
        # Other limits, so that a memoising sandbox takes it for another program.
        wall_s = program.limits.wall_s + attempt
        limited = dataclasses.replace(program.limits, wall_s=wall_s)
        try:
            execution = await sandbox.run(dataclasses.replace(program, limits=limited))
            report = read_report(problem, execution)
        except SandboxError as err:
            raise SandboxError(f"{problem.id}: {err}") from err
        if not any(outputs.killed for outputs in report.values()):
            break
    return report


def _program(
    problem: CodingProblem,
    code: str,
    limits: Mapping[str, SetLimits],
    as_set: bool,
) -> Program:
    request: dict[str, object] = {"entry_point": problem.entry_point, "as_set": as_set}
    for name, limit in limits.items():
        calls = {"calls": problem.inputs[name]}
        request[name] = calls | dataclasses.asdict(limit)
    files = (
        *PROGRAM_FILES,
        ("answer", code.encode("utf-8", "replace")),
        ("request", marshal.dumps(request, 2)),
    )
    cpu_s = sum(limit.total_s for limit in limits.values()) + _SPARE_CPU_S
    return Program(
        PYTHON,
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
    """Reads what `_runner` wrote.

    The code could write there too, so anything that is no report is a failure of the
    code. Only without the greeting it has not run.

    Raises:
      SandboxError: the program did not start.
    """
    if not execution.stdout.startswith(GREETING):
        raise not_started(execution)
    if not execution.ok:
        reason = why_stopped(execution) or "it ended the program"
        return _failed(reason, killed=execution.ending is Ending.SIGNALLED)
    try:
        return _read(problem, io.BytesIO(execution.stdout[len(GREETING) :]))
    except (ValueError, IndexError, OverflowError):
        return _failed("it left no report")


def _failed(reason: str, killed: bool = False) -> Report:
    return {"base": SetOutputs((), reason, killed)}


def _read(problem: CodingProblem, stream: io.BytesIO) -> Report:
    """The report without its greeting.

    Raises:
      ValueError, IndexError, OverflowError: it is none.
    """
    report = {}
    while (line := stream.readline()) != b"end\n":
        word, name, count, reason = line.decode().split()
        calls = len(problem.inputs[name]) if name in SETS else -2
        if word != "set" or int(count) > calls + 2:
            raise ValueError("a line that the program does not write")
        lines = [stream.readline()[:-1] for _ in range(int(count))]
        report[name] = _read_set(lines, reason, calls)
    if stream.read(1):
        raise ValueError("something follows the end")
    return report


def _read_set(lines: list[bytes], reason: str, calls: int) -> SetOutputs:
    """The lines of one set."""
    outputs, error = [], ""
    for line in lines:
        word, _, text = line.partition(b" ")
        if word.isdigit() and len(word) < 16:
            outputs.append(Output(text, int(word) / 1e6))
        elif word == b"failed":
            error = f"it failed with {text.decode('utf-8', 'replace')}"
        elif word != b"loaded":
            error = "it wrote where it should not"
    if reason == "done" and len(outputs) == calls:
        return SetOutputs(tuple(outputs), "")
    error = error or _REASONS.get(reason, f"it was ended by {reason}")
    return SetOutputs(tuple(outputs), error, killed=reason == _KILLED)
