"""Expected outputs: what the reference solution returns, run in the sandbox too.

They are computed when a problem is first asked for and kept in the user's cache folder,
`$XDG_CACHE_HOME/cycleqd_jax/coding/<hash>.json`, one file per problem, named by the
hash of everything that decides them. Times are CPU times; a piece of work of fixed size
is measured beside each, so that a time can be carried over to a slower machine.
"""

import base64
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import marshal
import os
import pathlib
from typing import Any

from cycleqd_jax.errors import BadInputError, RunError, SandboxError
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.coding import values
from cycleqd_jax.tasks.coding.calls import (
    SETS,
    Output,
    Report,
    SetLimits,
    SetOutputs,
    all_sets,
    call,
    runner,
)
from cycleqd_jax.tasks.coding.data import CodingProblem, cache_folder
from cycleqd_jax.tasks.coding.once import Once

_LOG = logging.getLogger(__name__)
_VERSION = 1
NOMINAL_WORK_S = 0.02  # of `_runner.work` on a server processor of 2023
# Of the reference solution; the slowest of MBPP+ needs 30 s in all.
_LIMIT_S = 600.0
_LONGEST_KEPT = 2**18  # bytes; of longer values the hash is kept


@dataclasses.dataclass(frozen=True)
class Expected:
    """What one call of the reference solution gave.

    Attributes:
      output: its frame.
      nominal_s: CPU seconds on a machine that needs `NOMINAL_WORK_S` for the work.
    """

    output: Output
    nominal_s: float

    @functools.cached_property
    def value(self) -> Any:
        """Decoded; None where only the hash is known."""
        match self.output.kind:
            case "P" | "B":
                return values.decode_plain(self.output.plain)
            case "T":
                value = values.decode_tagged(self.output.data)
                return value.value if isinstance(value, values.Inexact) else value
        return None

    @functools.cached_property
    def reflexive(self) -> bool:
        """Whether its encoding again is an equal value; not so with NaN in it."""
        if self.output.kind != "P":
            return False
        return self.value == values.decode_plain(self.output.data)


Truth = dict[str, tuple[Expected, ...]]  # by set


class Truths:
    """The expected outputs of problems, each computed once."""

    def __init__(self, source: pathlib.Path):
        """Makes nothing yet.

        Args:
          source: the data file, for messages.
        """
        self._source = source
        self._once: Once[str, Truth] = Once()

    async def get(self, problem: CodingProblem, sandbox: Sandbox) -> Truth:
        """The expected outputs of a problem.

        Raises:
          BadInputError: its reference solution fails, so the data are damaged.
          SandboxError: the sandbox failed.
        """
        return await self._once.get(problem.id, lambda: self._make(problem, sandbox))

    async def _make(self, problem: CodingProblem, sandbox: Sandbox) -> Truth:
        path = truth_path(problem)
        report = _read(path, problem)
        if report is None:
            report = await self._compute(problem, sandbox)
            _keep(path, report)
        slowness = (report.work_s or NOMINAL_WORK_S) / NOMINAL_WORK_S
        return {
            name: tuple(
                Expected(_shortened(output), output.cpu_s / slowness)
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
    """Where the expected outputs of a problem belong; they need not be there."""
    content = [problem.entry_point, problem.prompt, problem.solution]
    decided_by = marshal.dumps([_VERSION, *content, dict(problem.inputs)], 2)
    key = hashlib.sha256(decided_by + repr(runner()).encode()).hexdigest()
    return cache_folder() / "cycleqd_jax" / "coding" / f"{key}.json"


def _shortened(output: Output) -> Output:
    """Only the hash of a value that is too long to be kept."""
    if output.kind == "B" and len(output.data) > _LONGEST_KEPT:
        return dataclasses.replace(output, kind="D", data=output.data[:32])
    return output


def _keep(path: pathlib.Path, report: Report) -> None:
    """Keeps outputs; where that cannot be, work goes on without."""
    content = {
        "version": _VERSION,
        "work_s": report.work_s,
        **{
            name: [
                [o.kind, o.cpu_s, base64.b64encode(o.data).decode()]
                for o in map(_shortened, report.sets[name].outputs)
            ]
            for name in SETS
        },
    }
    text = json.dumps(content)
    content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content))
        os.replace(partial, path)
    except OSError as err:
        with contextlib.suppress(OSError):  # a full disk leaves half of it
            partial.unlink()
        _LOG.warning("Expected outputs are not kept in %s: %s.", path, err.strerror)


def _read(path: pathlib.Path, problem: CodingProblem) -> Report | None:
    """Outputs that were kept, or None where there are none that can be read."""
    try:
        content = json.loads(path.read_text())
        digest = content.pop("sha256")
        text = json.dumps(content)
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise ValueError("its hash is another")
        sets = {}
        for name in SETS:
            outputs = tuple(
                Output(kind, base64.b64decode(data), float(cpu_s))
                for kind, cpu_s, data in content[name]
            )
            if len(outputs) != len(problem.inputs[name]):
                raise ValueError("it has another number of outputs")
            sets[name] = SetOutputs(outputs, "")
        return Report(sets, content["work_s"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        # A damaged copy costs a computation, not the run.
        _LOG.warning("%s: cannot be read (%s) and is computed again.", path, err)
        return None
