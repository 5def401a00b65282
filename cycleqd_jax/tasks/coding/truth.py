"""Expected outputs: what the reference solution returns in the sandbox.

They are computed when a problem is first needed and kept in the user's cache folder as
`cycleqd_jax/coding/<hash>.json`, one file per problem, named by the hash of everything
that decides them. Times are CPU times in units of a nominal machine, so that they hold
for every machine.
"""

import dataclasses
import functools
import hashlib
import logging
import marshal
import pathlib
from typing import Any

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError, RunError, SandboxError
from cycleqd_jax.sandbox.base import Limits, Program, Sandbox
from cycleqd_jax.sandbox.memo import SharedRuns
from cycleqd_jax.tasks import values
from cycleqd_jax.tasks.coding.calls import PROGRAM_FILES, SETS, SetLimits, call
from cycleqd_jax.tasks.coding.data import CodingProblem
from cycleqd_jax.tasks.programs import PYTHON, not_started

_LOG = logging.getLogger(__name__)
# Of the reference solution; the slowest of MBPP+ needs 30 s in all.
_LIMIT_S = 600.0
# Work like that of the problems, and its CPU time on a server processor of 2023.
_NOMINAL_S = 0.02
_WORK = b"""
import time

def work():
    start = time.process_time()
    total, words = 0, {}
    for i in range(60_000):
        total = (total * 31 + i) % 1_000_003
        words[str(total % 997)] = [i, total]
    return time.process_time() - start

print(min(work() for _ in range(3)))
"""


@dataclasses.dataclass(frozen=True)
class Expected:
    """The output of one call of the reference solution.

    Attributes:
      text: the value, encoded.
      nominal_s: CPU seconds on the nominal machine.
    """

    text: bytes
    nominal_s: float

    @functools.cached_property
    def value(self) -> Any:
        """The value, decoded."""
        value = values.decode(self.text)
        return value.value if isinstance(value, values.Like) else value


Truth = dict[str, tuple[Expected, ...]]  # by set


class Truths:
    """The expected outputs of problems, each computed once.

    Args:
      source: the data file, for messages.
    """

    def __init__(self, source: pathlib.Path):
        self._source = source
        self._known: dict[str, Truth] = {}
        self._slowness: float | None = None
        self._runs: SharedRuns[str, Truth] = SharedRuns()
        self._measuring: SharedRuns[None, float] = SharedRuns()

    async def get(self, problem: CodingProblem, sandbox: Sandbox) -> Truth:
        """The expected outputs of a problem.

        Raises:
          BadInputError: its reference solution fails, so the data are damaged.
          SandboxError: the sandbox failed.
        """
        if problem.id not in self._known:
            self._known[problem.id] = await self._runs.get(
                problem.id, lambda: self._make(problem, sandbox)
            )
        return self._known[problem.id]

    async def slowness(self, problem: CodingProblem, sandbox: Sandbox) -> float:
        """The CPU time of this machine relative to the nominal one; measured once.

        Args:
          problem: that needs to know, for messages.
          sandbox: where it is measured.

        Raises:
          SandboxError: the sandbox failed.
        """
        if self._slowness is None:
            try:
                self._slowness = await self._measuring.get(
                    None, lambda: _measure(sandbox)
                )
            except SandboxError as err:
                raise SandboxError(f"{problem.id}: {err}") from err
        return self._slowness

    async def _make(self, problem: CodingProblem, sandbox: Sandbox) -> Truth:
        path = truth_path(problem)
        truth = _read(path)
        if truth is None:
            truth = await self._compute(problem, sandbox)
            _keep(path, truth)
        return truth

    async def _compute(self, problem: CodingProblem, sandbox: Sandbox) -> Truth:
        slowness = await self.slowness(problem, sandbox)
        code = problem.prompt + problem.solution
        limits = {
            name: SetLimits((_LIMIT_S,) * len(problem.inputs[name]), _LIMIT_S, _LIMIT_S)
            for name in SETS
        }
        report = await call(problem, code, limits, sandbox)
        if any(outputs.killed for outputs in report.values()):
            raise SandboxError(
                f"{problem.id}: its reference solution was killed; the machine may "
                "have run out of memory, so use fewer sandbox workers."
            )
        for name in SETS:
            failure = report[name].failure if name in report else "no result"
            if failure:
                raise BadInputError(
                    f"{self._source}: {problem.id}: its reference solution does not "
                    f"run on {name}_input ({failure}), so the file is damaged or needs "
                    "another Python in the sandbox."
                )
        return {
            name: tuple(
                Expected(output.text, output.cpu_s / slowness)
                for output in report[name].outputs
            )
            for name in SETS
        }


async def _measure(sandbox: Sandbox) -> float:
    program = Program(PYTHON, files=(("main.py", _WORK),), limits=Limits(cpu_s=60.0))
    execution = await sandbox.run(program)
    try:
        return float(execution.stdout) / _NOMINAL_S
    except ValueError as err:
        raise not_started(execution) from err


def truth_path(problem: CodingProblem) -> pathlib.Path:
    """The path for the expected outputs of a problem; the file need not exist."""
    content = [problem.entry_point, problem.prompt, problem.solution]
    decided_by = marshal.dumps([*content, dict(problem.inputs), PROGRAM_FILES], 2)
    key = hashlib.sha256(decided_by).hexdigest()
    return files.cache_folder("cycleqd_jax", "coding") / f"{key}.json"


def _keep(path: pathlib.Path, truth: Truth) -> None:
    """Keeps outputs; where that fails, work goes on without."""
    content = {
        name: [[e.text.decode("ascii"), e.nominal_s] for e in truth[name]]
        for name in SETS
    }
    try:
        files.write_sealed(path, content)
    except RunError as err:
        _LOG.warning("Expected outputs are not kept: %s", err)


def _read(path: pathlib.Path) -> Truth | None:
    """Outputs that were kept; None where there are none, or damaged ones."""
    if not path.is_file():
        return None
    try:
        content = files.read_sealed(path)
        return {
            name: tuple(Expected(text.encode(), s) for text, s in content[name])
            for name in SETS
        }
    except (BadInputError, KeyError) as err:
        # A damaged copy costs a computation, not the run.
        _LOG.warning("Expected outputs are computed again: %s", err)
        return None
