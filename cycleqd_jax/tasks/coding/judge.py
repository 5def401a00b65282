"""The verdict on an answer: its outputs compared with the expected ones."""

import dataclasses

from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks import values
from cycleqd_jax.tasks.base import Outcome
from cycleqd_jax.tasks.coding.calls import SETS, SetLimits, SetOutputs, call
from cycleqd_jax.tasks.coding.compare import Comparison, Rules
from cycleqd_jax.tasks.coding.data import CodingProblem
from cycleqd_jax.tasks.coding.truth import Expected, Truth

# Seconds of a call: at least this, and at least four times the reference solution's.
# EvalPlus's limits, as CPU time.
_LEAST_S = {Rules.EVALPLUS: 1.0, Rules.REFERENCE: 0.2}
_FACTOR = 4.0
_MOST_S = {Rules.EVALPLUS: 60.0, Rules.REFERENCE: float("inf")}  # of a set
_EXTRA_S = 1.0
_LONGEST_CODE = 2**22  # characters; at most 16 MiB, which fit its folder
_LONGEST_LOAD_S = 20.0  # of running the code, before the first call


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict on an answer.

    Attributes:
      base: whether all base tests pass.
      plus: whether all base and all plus tests pass.
      explanation: one line.
      has_code: whether the reply held any code.
    """

    base: bool
    plus: bool
    explanation: str
    has_code: bool = True

    @property
    def outcome(self) -> Outcome:
        """The outcome of an episode with this answer."""
        if not self.has_code:
            return Outcome.BAD_ACTION
        return Outcome.SOLVED if self.base else Outcome.WRONG


NO_CODE = Verdict(False, False, "The reply holds no code.", has_code=False)


def time_limits(truth: Truth, rules: Rules, slowness: float) -> dict[str, SetLimits]:
    """The time limits of an answer.

    Args:
      truth: has the reference solution's times on a nominal machine.
      rules: of which version.
      slowness: how many times slower this machine is, at least 1.
    """
    limits = {}
    for name in SETS:
        calls = [max(_LEAST_S[rules], _FACTOR * e.nominal_s) for e in truth[name]]
        total = slowness * (min(_MOST_S[rules], sum(calls)) + _EXTRA_S)
        limits[name] = SetLimits(
            tuple(slowness * seconds for seconds in calls),
            min(total, slowness * _LONGEST_LOAD_S),
            total,
        )
    return limits


async def judge(
    problem: CodingProblem,
    code: str,
    truth: Truth,
    comparison: Comparison,
    slowness: float,
    sandbox: Sandbox,
) -> Verdict:
    """Runs an answer on all inputs and compares.

    Raises:
      SandboxError: the sandbox failed, so there is no verdict.
    """
    if len(code) > _LONGEST_CODE:
        return Verdict(False, False, f"The code is too long, {len(code)} characters.")
    limits = time_limits(truth, comparison.rules, slowness)
    report = await call(problem, code, limits, sandbox, as_set=comparison.as_set)
    for name in SETS:
        outputs = report.get(name, SetOutputs((), "it was not run"))
        wrong = _first_wrong(problem, name, truth[name], outputs, comparison)
        if wrong:
            return Verdict(name == "plus", False, wrong)
    return Verdict(True, True, "Right.")


def _first_wrong(
    problem: CodingProblem,
    name: str,
    truth: tuple[Expected, ...],
    got: SetOutputs,
    comparison: Comparison,
) -> str:
    """Says in a line what is wrong first in one set; empty if nothing is."""
    expected = [e.value for e in truth]
    if comparison.not_none:
        expected = [value is not None for value in expected]
    cases = zip(
        problem.inputs[name],
        expected,
        got.outputs,
        comparison.tolerances(expected),
        strict=False,
    )
    for number, (arguments, wanted, output, tolerances) in enumerate(cases, 1):
        try:
            value = values.decode(output.text)
        except ValueError as err:
            value = values.Other(str(err))
        if not comparison.right(arguments, wanted, value, tolerances):
            call_text = ", ".join(map(values.describe, arguments))
            return (
                f"{name} test {number}: {problem.entry_point}({call_text:.120}) "
                f"gave {values.describe(value)}, not {values.describe(wanted)}."
            )
    if got.failure:
        return f"{name} test {len(got.outputs) + 1}: {got.failure}."
    return ""
