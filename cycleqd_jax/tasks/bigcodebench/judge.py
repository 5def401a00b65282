"""The verdict on an answer: its problem's unit tests, run in the sandbox."""

import dataclasses
import hashlib
import json
import logging
import pathlib
from typing import NamedTuple

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError, RunError, SandboxError
from cycleqd_jax.sandbox.base import Limits, Program, Sandbox
from cycleqd_jax.sandbox.memo import SharedRuns
from cycleqd_jax.tasks.bigcodebench.data import BigCodeProblem
from cycleqd_jax.tasks.programs import not_started, why_stopped

_LOG = logging.getLogger(__name__)
_TESTS = pathlib.Path(__file__).with_name("_tests.py").read_bytes()
_GREETING = b"cycleqd_jax bigcodebench 1\n"
# Without user packages and bytecode; the time zone and the threads are the benchmark's.
_PYTHON = (
    *("env", "PYTHONHASHSEED=0", "TZ=UTC", "MPLBACKEND=Agg", "TF_CPP_MIN_LOG_LEVEL=3"),
    *("OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1"),
    *("python3", "-s", "-B", "main.py"),
)
_LONGEST_CODE = 2**20  # characters
_SPARE_S = 20.0  # for the imports
_WALL_S = 240.0  # at least; only a program that waits gets there
_LIMITS = Limits(
    memory_bytes=8 * 2**30,  # the benchmark's own is 30 GiB of address space
    processes=256,
    open_files=256,
    file_bytes=64 * 2**20,
    scratch_bytes=256 * 2**20,
    output_bytes=2**20,
)


class Verdict(NamedTuple):
    """Attributes: `right`, and `explanation`, one line."""

    right: bool
    explanation: str


async def judge(
    problem: BigCodeProblem, code: str, seconds: float, sandbox: Sandbox
) -> Verdict:
    """Runs the unit tests of a problem on code.

    Args:
      problem: whose tests.
      code: a whole module; anybody's.
      seconds: of CPU time, for all tests.
      sandbox: runs the program.

    Raises:
      SandboxError: the sandbox failed, so there is no verdict; names the problem.
    """
    if len(code) > _LONGEST_CODE:
        return Verdict(False, f"The code is too long, {len(code)} characters.")
    cpu_s = seconds + _SPARE_S
    program = Program(
        _PYTHON,
        files=(
            ("main.py", _TESTS),
            ("answer", code.encode("utf-8", "replace")),
            ("test", problem.test.encode("utf-8", "replace")),
        ),
        limits=dataclasses.replace(
            _LIMITS, cpu_s=cpu_s, wall_s=max(_WALL_S, 2 * cpu_s)
        ),
    )
    try:
        execution = await sandbox.run(program)
        if not execution.stdout.startswith(_GREETING):
            raise not_started(execution)
    except SandboxError as err:
        raise SandboxError(f"{problem.id}: {err}") from err
    if reason := why_stopped(execution):
        return Verdict(False, f"{reason[:1].upper()}{reason[1:]}.")
    return _read(execution.stdout[len(_GREETING) :])


def _read(text: bytes) -> Verdict:
    """The verdict that a report comes to; what is none is a failure of the code."""
    try:
        report = json.loads(text)
        count, failed = int(report["tests"]), list(report["failed"])
        if not failed:
            return Verdict(True, f"Right, {count} tests.")
        what = ": ".join(map(str, failed[0]))
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return Verdict(False, "It ended the process, or left no report.")
    what = " ".join(what.split())[:300]
    return Verdict(False, f"{len(failed)} of {count} tests fail; {what}")


class References:
    """Says of reference solutions if they pass on this machine; each is run once.

    Those that pass are kept in the user's cache folder, `cycleqd_jax/bigcodebench`; one
    that fails is run again by the next process, which may have more libraries.
    """

    def __init__(self):
        self._known: dict[str, bool] = {}
        self._runs: SharedRuns[str, bool] = SharedRuns()

    async def passes(
        self, problem: BigCodeProblem, seconds: float, sandbox: Sandbox
    ) -> bool:
        """True if the reference solution of a problem is right; errors as of `judge`.

        Args:
          problem: the problem.
          seconds: of CPU time.
          sandbox: runs the program.
        """
        if problem.id not in self._known:
            self._known[problem.id] = await self._runs.get(
                problem.id, lambda: self._make(problem, seconds, sandbox)
            )
        return self._known[problem.id]

    async def _make(
        self, problem: BigCodeProblem, seconds: float, sandbox: Sandbox
    ) -> bool:
        code = f"{problem.complete}\n{problem.solution}"
        content = repr((_TESTS, _PYTHON, code, problem.test))
        key = hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()
        path = files.cache_folder("cycleqd_jax", "bigcodebench") / f"{key}.json"
        try:
            if path.is_file() and files.read_sealed(path).get("passes") is True:
                return True
        except BadInputError as err:  # a damaged copy costs one run of the tests
            _LOG.warning("A reference solution is run again: %s", err)
        verdict = await judge(problem, code, seconds, sandbox)
        if not verdict.right:
            _LOG.warning(
                "The reference solution of %s does not pass here: %s",
                problem.id,
                verdict.explanation,
            )
            return False
        try:
            files.write_sealed(path, {"passes": True})
        except RunError as err:
            _LOG.warning("The result of a reference solution is not kept: %s", err)
        return True
