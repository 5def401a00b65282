"""When an output is right: EvalPlus's rules, of two versions.

`evalplus` are those of EvalPlus 0.3.1 (evalplus/evalplus, `evalplus/eval/__init__.py`),
`reference` those of commit 1895d2f, which the published experiments used. In both an
output is right if it equals the expected one, or is close to it where a tolerance
applies, and some problems have a rule of their own.

One thing is mended: in 0.3.1 no answer passes `find_zero` (HumanEval/32), since it
forgets to count its calls (evalplus/evalplus, pull request 201).
"""

import collections
import dataclasses
import enum
import functools
import math
import numbers
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from cycleqd_jax.tasks.coding.values import Inexact, hashable

_SET_TASKS = frozenset(
    "similar_elements find_char_long common_in_nested_lists extract_singly larg_nnum "
    "intersection_array find_dissimilar Diff".split()
)
NOT_NONE_TASKS = frozenset("check_str text_match_three text_starta_endb".split())
_RTOL = 1e-7
_FLOAT_ATOL = 1e-6
# What comparing plain values may raise: EvalPlus counts each as a wrong output.
_FAILURES = (
    TypeError,
    ValueError,
    AssertionError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)
_MAX_PRODUCT = 10**7  # numbers that two different shapes may be broadcast to


class Rules(enum.StrEnum):
    """Which version's rules."""

    EVALPLUS = "evalplus"
    REFERENCE = "reference"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How the outputs of one problem are compared.

    Attributes:
      dataset: "mbpp" or "humaneval".
      entry_point: the function's name, which decides about rules of its own.
      atol: absolute tolerance of the problem; 0 if none.
      rules: whose.
    """

    dataset: str
    entry_point: str
    atol: float
    rules: Rules

    @property
    def as_set(self) -> bool:
        """Whether any iterable with the right elements will do."""
        return (
            self.dataset == "mbpp"
            and self.rules is Rules.EVALPLUS
            and self.entry_point in _SET_TASKS
        )

    @property
    def not_none(self) -> bool:
        """Whether it only counts if there is an output."""
        return self.dataset == "mbpp" and self.entry_point in NOT_NONE_TASKS

    @property
    def by_equality(self) -> bool:
        """Whether an output that equals the expected one is always right."""
        return not (self.as_set or self.not_none or self._is_root)

    @property
    def _is_root(self) -> bool:
        return self.dataset == "humaneval" and self.entry_point == "find_zero"

    def tolerances(self, expected: Sequence[Any]) -> list[tuple[float, float]]:
        """For each call of one set of tests, in order, its absolute tolerances.

        The first of the two is for rules of some problems, the second for closeness.
        Once floats are expected where there was none, it stays on for later calls.
        """
        atol, result = self.atol, []
        for value in expected:
            before = atol
            if atol == 0 and self._is_floats(value):
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
        """Whether one output is right.

        Args:
          arguments: of the call; only rules of some problems look at them.
          expected: what the reference solution returned; for problems with `not_none`
            whether it returned something.
          output: decoded, perhaps an `Inexact` or `Other`.
          tolerances: of this call.
        """
        before, atol = tolerances
        plain = output.value if isinstance(output, Inexact) else output
        exact_type = plain is output
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if self._is_root:
                    return bool(abs(_polynomial(*arguments, plain)) <= before)
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
            a_bool = isinstance(output, bool) and exact_type  # NumPy's is none
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
                    return bool(abs(output - _pyramid(*arguments)) <= atol)
                case "digit_distance_nums":
                    return output == _digit_distance(*arguments)
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

    def _is_floats(self, value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            empty_counts = self.rules is Rules.REFERENCE
            return (bool(value) or empty_counts) and all(
                isinstance(item, float) for item in value
            )
        return isinstance(value, float)


def _of_numbers(output: Any) -> bool:
    """Whether it holds nothing but numbers.

    Nothing else is close to any, and of one long text among many short ones, or of
    ranges in a list, NumPy would make an array that fills the memory.
    """
    if isinstance(output, (list, tuple, collections.deque)):
        return all(map(_of_numbers, output))
    return isinstance(output, (numbers.Number, np.ndarray))


def _pyramid(base: float, height: float) -> int:
    """Mbpp/581 with the height of the pyramid, not that of its sides."""
    slant = math.sqrt((base / 2) ** 2 + height**2)
    return round(base**2 + 2 * base * slant)


def _digit_distance(first: int, second: int) -> int:
    """Mbpp/558 with the shorter number padded by zeros on its left."""
    a, b = str(first), str(second)
    width = max(len(a), len(b))
    pairs = zip(a.zfill(width), b.zfill(width), strict=True)
    return sum(abs(int(x) - int(y)) for x, y in pairs)


def _polynomial(coefficients: Sequence[float], x: float) -> float:
    """HumanEval/32: the value at x."""
    powers = (c * math.pow(x, i) for i, c in enumerate(coefficients))
    return functools.reduce(lambda total, term: total + term, powers, 0)
