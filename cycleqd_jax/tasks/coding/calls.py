"""Runs code on a problem's inputs in the sandbox and reads the report."""

import dataclasses
import functools
import io
import marshal
import pathlib
from collections.abc import Mapping

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.base import Ending, Execution, Limits, Program, Sandbox
from cycleqd_jax.tasks import values
from cycleqd_jax.tasks.coding.data import CodingProblem

SETS = ("base", "plus")
MEMORY_BYTES = 4 * 2**30  # EvalPlus's
# Without user packages and bytecode, NumPy with one thread. The hash seed fixes the
# order of sets, so that outputs depend on the code alone.
_VARIABLES = ("PYTHONHASHSEED=0", "OPENBLAS_NUM_THREADS=1")
_PYTHON = ("env", *_VARIABLES, "python3", "-s", "-S", "-B", "main.py")
_GREETING = b"cycleqd_jax coding 2\n"
_PROCESSES = 256  # with threads, which an answer may leave behind in every call
_OUTPUT_BYTES = 48 * 2**20  # two sets of at most 20 MiB, see `_runner`
# The program watches the answer itself, so only one that was stopped gets there.
_WALL_S = 240.0
_SPARE_CPU_S = 5.0
_ATTEMPTS = 2  # for a program that was killed, perhaps not by the answer
_KILLED = "signal-9"
_STOPPED = {
    Ending.SIGNALLED: "it was killed by a signal",
    Ending.CPU_LIMIT: "it used up its CPU time",
    Ending.WALL_LIMIT: "it used up its time",
    Ending.OUTPUT_LIMIT: "it wrote too much output",
    Ending.MEMORY_LIMIT: "it used too much memory",
    Ending.ENTRIES_LIMIT: "it made too many files",
}
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
    """What one call returned.

    Attributes:
      text: the value, encoded by `cycleqd_jax.tasks.values`.
      cpu_s: CPU seconds, as the called process says; code that is not trusted may lie.
    """

    text: bytes
    cpu_s: float


@dataclasses.dataclass(frozen=True)
class SetOutputs:
    """What one set of calls returned.

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
      sets: by name, without those that were not tried.
      work_s: CPU seconds of a fixed piece of work, if it was asked for.
      killed: whether something was killed, but not at a limit of ours: by the code
        itself, or because the machine has run out of memory.
    """

    sets: Mapping[str, SetOutputs]
    work_s: float | None = None
    killed: bool = False


@functools.cache
def program_files() -> tuple[tuple[str, bytes], ...]:
    """Name and content of the program's own files."""
    runner = pathlib.Path(__file__).with_name("_runner.py")
    encoding = pathlib.Path(values.__file__)
    return (("main.py", runner.read_bytes()), ("values.py", encoding.read_bytes()))


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

    A program that is killed, though not at a limit, runs once more: if the code itself
    did it, it will do it again.

    Args:
      problem: whose inputs and entry point.
      code: anybody's.
      limits: by set; a set that is not named is not tried.
      sandbox: runs the program.
      as_set: whether any iterable of the right elements is an output.
      measure: whether to measure the fixed piece of work first.

    Raises:
      SandboxError: the sandbox failed; the text names the problem.
    """
    program = _program(problem, code, limits, as_set, measure)
    for attempt in range(_ATTEMPTS):
        # Other limits, so that a memoising sandbox takes it for another program.
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
        *program_files(),
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
    """Reads what `_runner` wrote.

    The code could write there too, so anything that is no report is a failure of the
    code. Only without the greeting it has not run.

    Raises:
      SandboxError: the program did not start.
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
        return _read(problem, io.BytesIO(execution.stdout[len(_GREETING) :]))
    except (ValueError, IndexError, OverflowError):
        return _failed("it left no report")


def _failed(reason: str, killed: bool = False) -> Report:
    return Report({"base": SetOutputs((), reason)}, killed=killed)


def _read(problem: CodingProblem, stream: io.BytesIO) -> Report:
    """The report without its greeting.

    Raises:
      ValueError, IndexError, OverflowError: it is none.
    """
    work_s, sets, killed = None, {}, False
    while (line := stream.readline()) != b"end\n":
        word, *fields = line.decode().split()
        if word == "work":
            work_s = int(fields[0]) / 1e6
            continue
        name, count, reason = fields
        calls = len(problem.inputs[name]) if name in SETS else -2
        if word != "set" or int(count) > calls + 2:
            raise ValueError("a line that the program does not write")
        lines = [stream.readline()[:-1] for _ in range(int(count))]
        sets[name] = _read_set(lines, reason, calls)
        killed = killed or reason == _KILLED
    if stream.read(1):
        raise ValueError("something follows the end")
    return Report(sets, work_s, killed)


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
    return SetOutputs(tuple(outputs), error)


def all_sets(problem: CodingProblem, limit: SetLimits) -> dict[str, SetLimits]:
    """The same limits for both sets; `limit.calls_s` has that of any call."""
    first = limit.calls_s[0]
    return {
        name: dataclasses.replace(limit, calls_s=(first,) * len(problem.inputs[name]))
        for name in SETS
    }
