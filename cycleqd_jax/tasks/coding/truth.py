"""Expected outputs: what the reference solution returns in the sandbox.

They are computed when a problem is first needed and kept in the user's cache folder as
`cycleqd_jax/coding/<hash>.json`, one file per problem, named by the hash of everything
that decides them. Times are CPU times. A fixed piece of work is measured beside each,
so that a time can be converted to another machine.
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
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.sandbox.memo import SharedRuns
from cycleqd_jax.tasks import values
from cycleqd_jax.tasks.coding.calls import (
    SETS,
    Output,
    Report,
    SetLimits,
    SetOutputs,
    all_sets,
    call,
    program_files,
)
from cycleqd_jax.tasks.coding.data import CodingProblem
from cycleqd_jax.tasks.data import cache_folder

_LOG = logging.getLogger(__name__)
NOMINAL_WORK_S = 0.02  # of `_runner.work` on a server processor of 2023
# Of the reference solution; the slowest of MBPP+ needs 30 s in all.
_LIMIT_S = 600.0


@dataclasses.dataclass(frozen=True)
class Expected:
    """What one call of the reference solution returned.

    Attributes:
      text: the value, encoded.
      nominal_s: CPU seconds on a machine that needs `NOMINAL_WORK_S` for the work.
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
    """The expected outputs of problems, each computed once."""

    def __init__(self, source: pathlib.Path):
        """Makes nothing yet.

        Args:
          source: the data file, for messages.
        """
        self._source = source
        self._known: dict[str, Truth] = {}
        self._runs: SharedRuns[str, Truth] = SharedRuns()

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

    async def _make(self, problem: CodingProblem, sandbox: Sandbox) -> Truth:
        path = truth_path(problem)
        report = _read(path, problem)
        if report is None:
            report = await self._compute(problem, sandbox)
            _keep(path, report)
        slowness = (report.work_s or NOMINAL_WORK_S) / NOMINAL_WORK_S
        return {
            name: tuple(
                Expected(output.text, output.cpu_s / slowness)
                for output in report.sets[name].outputs
            )
            for name in SETS
        }

    async def _compute(self, problem: CodingProblem, sandbox: Sandbox) -> Report:
        code = problem.prompt + problem.solution
        limits = all_sets(problem, SetLimits((_LIMIT_S,), _LIMIT_S, _LIMIT_S))
        report = await call(problem, code, limits, sandbox, measure=True)
        if report.killed:
            raise SandboxError(
                f"{problem.id}: its reference solution was killed; the machine may "
                "have run out of memory, so use fewer sandbox workers."
            )
        for name in SETS:
            failure = report.sets[name].failure if name in report.sets else "no result"
            if failure:
                raise BadInputError(
                    f"{self._source}: {problem.id}: its reference solution does not "
                    f"run on {name}_input ({failure}), so the file is damaged or needs "
                    "another Python in the sandbox."
                )
        return report


async def measure_slowness(problem: CodingProblem, sandbox: Sandbox) -> float:
    """How many times slower than the nominal one this machine is now; at least 1.

    Raises:
      SandboxError: the sandbox failed.
    """
    report = await call(problem, "", {}, sandbox, measure=True)
    if report.work_s is None:
        raise RunError(f"{problem.id}: the sandbox's speed could not be measured.")
    return max(1.0, report.work_s / NOMINAL_WORK_S)


def truth_path(problem: CodingProblem) -> pathlib.Path:
    """Where the expected outputs of a problem are kept; they need not be there."""
    content = [problem.entry_point, problem.prompt, problem.solution]
    decided_by = marshal.dumps([*content, dict(problem.inputs), program_files()], 2)
    key = hashlib.sha256(decided_by).hexdigest()
    return cache_folder("cycleqd_jax", "coding") / f"{key}.json"


def _keep(path: pathlib.Path, report: Report) -> None:
    """Keeps outputs; where that fails, work goes on without."""
    sets = {
        name: [[o.text.decode("ascii"), o.cpu_s] for o in report.sets[name].outputs]
        for name in SETS
    }
    try:
        files.write_sealed(path, {"work_s": report.work_s, **sets})
    except RunError as err:
        _LOG.warning("Expected outputs are not kept: %s", err)


def _read(path: pathlib.Path, problem: CodingProblem) -> Report | None:
    """Outputs that were kept; None where there are none, or damaged ones."""
    if not path.is_file():
        return None
    try:
        content = files.read_sealed(path)
        sets = {
            name: SetOutputs(tuple(Output(t.encode(), s) for t, s in content[name]), "")
            for name in SETS
        }
    except (BadInputError, KeyError, TypeError, ValueError) as err:
        # A damaged copy costs a computation, not the run.
        _LOG.warning("Expected outputs are computed again: %s", err)
        return None
    return Report(sets, content["work_s"])
