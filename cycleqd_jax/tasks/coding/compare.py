"""When an output is right: EvalPlus's rules, of two versions.

`evalplus` are the rules of EvalPlus 0.3.1 (`evalplus/eval/__init__.py`), `reference`
those of its commit 1895d2f, which the published experiments used. In both, an output is
right if it equals the expected one or, where a tolerance applies, is close to it. Some
problems have a rule of their own. EvalPlus applies its rules in the answer's process,
so they are written again here, for decoded outputs.

One thing is mended: no answer passes `find_zero` (HumanEval/32) in 0.3.1, which forgets
to count its calls (evalplus/evalplus, pull request 201).
"""

import collections
import dataclasses
import enum
import numbers
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from evalplus.eval import is_floats
from evalplus.eval._special_oracle import (
    MBPP_OUTPUT_NOT_NONE_TASKS,
    MBPP_OUTPUT_SET_EQ_TASKS,
    _digit_distance_nums,
    _poly,
    _surface_Area,
)

from cycleqd_jax.tasks.values import Like, hashable

_RTOL = 1e-7
_FLOAT_ATOL = 1e-6
# What comparing values may raise; an output on which it does is wrong.
_FAILURES = (
    TypeError,
    ValueError,
    AssertionError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)
_MAX_PRODUCT = 10**7  # elements that two different shapes may be broadcast to


class Rules(enum.StrEnum):
    """The version of EvalPlus whose rules are used."""

    EVALPLUS = "evalplus"
    REFERENCE = "reference"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Compares the outputs of one problem with the expected ones.

    Attributes:
      dataset: "mbpp" or "humaneval".
      entry_point: the function's name, which selects rules of its own.
      atol: absolute tolerance of the problem; 0 if none.
      rules: whose.
    """

    dataset: str
    entry_point: str
    atol: float
    rules: Rules

    @property
    def as_set(self) -> bool:
        """True if any iterable with the right elements is right."""
        return (
            self.dataset == "mbpp"
            and self.rules is Rules.EVALPLUS
            and self.entry_point in MBPP_OUTPUT_SET_EQ_TASKS
        )

    @property
    def not_none(self) -> bool:
        """True if only an output of None counts."""
        in_list = self.entry_point in MBPP_OUTPUT_NOT_NONE_TASKS
        return self.dataset == "mbpp" and in_list

    def tolerances(self, expected: Sequence[Any]) -> list[tuple[float, float]]:
        """Two absolute tolerances for each call of one set of tests, in order.

        The first is for the rules of some problems, the second for closeness. As in
        EvalPlus, the first float that is expected sets the tolerance for that call and
        all later ones.
        """
        atol, result = self.atol, []
        for value in expected:
            before = atol
            floats = is_floats(value)
            if self.rules is Rules.REFERENCE and isinstance(value, (list, tuple)):
                floats = floats or not value
            if atol == 0 and floats:
                atol = _FLOAT_ATOL
            result.append((before, atol))
        return result

    def right(
        self,
        arguments: Sequence[Any],
        expected: Any,
        output: Any,
        tolerances: tuple[float, float],
    ) -> bool:
        """True if one output is right.

        Args:
          arguments: of the call; some problems' rules need them.
          expected: what the reference solution returned; with `not_none` whether that
            was not None.
          output: decoded by `cycleqd_jax.tasks.values`.
          tolerances: of this call.
        """
        before, atol = tolerances
        plain = output.value if isinstance(output, Like) else output
        exact_type = plain is output
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if (self.dataset, self.entry_point) == ("humaneval", "find_zero"):
                    return bool(abs(_poly(*arguments, plain)) <= before)
                if self._equal(arguments, expected, plain, exact_type, before):
                    return True
                return atol != 0 and self._close(expected, plain, exact_type, atol)
        except _FAILURES:
            return False

    def _equal(
        self,
        arguments: Sequence[Any],
        expected: Any,
        output: Any,
        exact_type: bool,
        atol: float,
    ) -> bool:
        if self.as_set:
            return set(hashable(list(output))) == set(expected)
        if self.not_none:
            a_bool = isinstance(output, bool) and exact_type  # not NumPy's
            if self.rules is Rules.EVALPLUS and a_bool:
                return output == expected
            return expected == (output is not None)
        if output == expected:
            return True
        if self.dataset != "mbpp":
            return False
        match self.entry_point:
            case "are_equivalent":
                return True
            case "sum_div":
                return output == 0
        if self.rules is Rules.EVALPLUS:
            match self.entry_point:
                case "surface_Area":
                    return bool(abs(output - _surface_Area(*arguments)) <= atol)
                case "digit_distance_nums":
                    return output == _digit_distance_nums(*arguments)
        return False

    def _close(self, expected: Any, output: Any, exact_type: bool, atol: float) -> bool:
        if self.rules is Rules.EVALPLUS:
            if not exact_type or type(output) is not type(expected):
                return False
            if isinstance(expected, (list, tuple)) and len(output) != len(expected):
                return False
        if not (_of_numbers(output) or isinstance(output, range)):
            return False
        if self.rules is Rules.REFERENCE:  # NaN is close to NaN, and lengths count
            np.testing.assert_allclose(output, expected, rtol=_RTOL, atol=atol)
            return True
        a, b = np.asanyarray(output), np.asanyarray(expected)
        if a.shape != b.shape and a.size * b.size > _MAX_PRODUCT:
            return False
        return bool(np.allclose(output, expected, rtol=_RTOL, atol=atol))


def _of_numbers(output: Any) -> bool:
    """True if a value holds nothing but numbers.

    Nothing else is close to anything, and NumPy could fill the memory: it would turn
    one long text among many short ones, or a list of ranges, into one array.
    """
    if isinstance(output, (list, tuple, collections.deque)):
        return all(map(_of_numbers, output))
    return isinstance(output, (numbers.Number, np.ndarray))
