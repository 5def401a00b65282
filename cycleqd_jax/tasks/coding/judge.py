"""The verdict on an answer: its outputs beside the expected ones."""

import dataclasses
from typing import Any

from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.base import Outcome
from cycleqd_jax.tasks.coding import values
from cycleqd_jax.tasks.coding.calls import SETS, Output, SetLimits, SetOutputs, call
from cycleqd_jax.tasks.coding.compare import Comparison, Rules
from cycleqd_jax.tasks.coding.data import CodingProblem
from cycleqd_jax.tasks.coding.truth import Expected, Truth

# Seconds that a call may take at least; four times what the reference solution takes
# if that is more. EvalPlus's, as CPU time.
_LEAST_S = {Rules.EVALPLUS: 1.0, Rules.REFERENCE: 0.2}
_FACTOR = 4.0
_MOST_S = {Rules.EVALPLUS: 60.0, Rules.REFERENCE: float("inf")}  # of a set
_EXTRA_S = 1.0
_LONGEST_CODE = 2**22  # characters: at most 16 MiB, which its folder holds
_LONGEST_LOAD_S = 20.0  # of executing the code, before the first call


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of an answer.

    Attributes:
      base: whether all base tests pass.
      plus: whether all base and all plus tests pass.
      explanation: one line.
      has_code: whether there was anything to run.
    """

    base: bool
    plus: bool
    explanation: str
    has_code: bool = True

    @property
    def outcome(self) -> Outcome:
        """Of an episode with this answer."""
        if not self.has_code:
            return Outcome.BAD_ACTION
        return Outcome.SOLVED if self.base else Outcome.WRONG


NO_CODE = Verdict(False, False, "The reply holds no code.", has_code=False)


def time_limits(truth: Truth, rules: Rules, slowness: float) -> dict[str, SetLimits]:
    """The limits of an answer, from what the reference solution took.

    Args:
      truth: with times of a nominal machine.
      rules: whose.
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
      SandboxError: the sandbox failed; there is no verdict then.
    """
    if len(code) > _LONGEST_CODE:
        return Verdict(False, False, f"The code is too long, {len(code)} characters.")
    limits = time_limits(truth, comparison.rules, slowness)
    report = await call(problem, code, limits, sandbox, as_set=comparison.as_set)
    passed: dict[str, bool] = {}
    for name in SETS:
        outputs = report.sets.get(name, SetOutputs((), "it was not run"))
        wrong = _first_wrong(problem, name, truth[name], outputs, comparison)
        passed[name] = not wrong
        if wrong:
            return Verdict(passed["base"], False, wrong)
    return Verdict(True, True, "Right.")


def _first_wrong(
    problem: CodingProblem,
    name: str,
    truth: tuple[Expected, ...],
    got: SetOutputs,
    comparison: Comparison,
) -> str:
    """What is wrong first in one set, as a line; empty if nothing is."""
    if comparison.not_none:
        expected = [e.output.kind in "DB" or e.value is not None for e in truth]
    else:
        expected = [e.value for e in truth]
    tolerances = comparison.tolerances(expected)
    for index, output in enumerate(got.outputs[: len(truth)]):
        if comparison.by_equality and _same_bytes(truth[index], output):
            continue
        arguments = problem.inputs[name][index]
        try:
            value = _decode(output)
        except ValueError as err:
            value = values.Other(str(err))
        if truth[index].output.kind == "D" and not comparison.not_none:
            right = False  # its hash was another
        else:
            right = comparison.right(
                arguments, expected[index], value, tolerances[index]
            )
        if not right:
            call_text = ", ".join(_short(argument) for argument in arguments)
            return (
                f"{name} test {index + 1}: {problem.entry_point}({call_text:.120}) "
                f"gave {_short(value)}, not {_short(expected[index])}."
            )
    if got.failure:
        where = f"{name} test {len(got.outputs) + 1}"
        return f"{where}: {got.failure}."
    return ""


def _same_bytes(expected: Expected, output: Output) -> bool:
    if expected.output.kind == "D":
        return output.digest == expected.output.data
    return output.plain == expected.output.data and expected.reflexive


def _decode(output: Output) -> Any:
    if output.kind == "T":
        return values.decode_tagged(output.data)
    if output.plain is None:
        return values.Other("long value")
    return values.decode_plain(output.plain)


def _short(value: Any) -> str:
    """A value on a short line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number with too many digits
        text = f"a long {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
