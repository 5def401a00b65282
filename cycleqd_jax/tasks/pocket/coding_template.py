"""A family of small Python functions, and the hidden calls of its problems.

Expected outputs are computed here from the template's body, which is trusted text of
this package. The answer's process never sees them.
"""

import dataclasses
import functools
import random
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cycleqd_jax.tasks.pocket.coding_inputs import make_arguments
from cycleqd_jax.tasks.pocket.coding_mistakes import agree, compiled, mistakes
from cycleqd_jax.tasks.pocket.generator import Draft

_NAMES = ("solve", "compute", "calc", "run", "apply", "process")
_ARGUMENTS = {
    "ints": ("xs", "nums", "values", "data"),
    "low": ("xs", "nums", "values", "data"),
    "high": ("xs", "nums", "values", "data"),
    "some": ("xs", "nums", "values", "data"),
    "unique": ("xs", "nums", "values", "data"),
    "words": ("words", "names", "items", "parts"),
    "lengths": ("words", "names", "items", "parts"),
    "text": ("s", "text", "word", "label"),
    "phrase": ("s", "text", "line", "sentence"),
    "int": ("n", "x", "num", "k"),
    "natural": ("n", "x", "num", "size"),
    "upto": ("n", "x", "num", "size"),
    "runs": ("xs", "nums", "values", "data"),
    "lists": ("xs, ys", "a, b", "left, right"),
    "pair": ("a, b", "x, y", "m, n", "p, q"),
    "dict": ("d", "scores", "counts", "prices"),
    "prices": ("d", "scores", "counts", "prices"),
}
_NUM_CALLS = 8
_MAX_DRAWS = 40  # of further calls, which must expose a mistake
_ORDINALS = {2: "2nd", 3: "3rd", 4: "4th", 5: "5th"}


@dataclasses.dataclass(frozen=True)
class CodingTemplate:
    """One family of functions.

    Attributes:
      id: unique.
      names: function names that fit, separated by blanks.
      domain: of the arguments; see `coding_inputs`.
      demands: wordings of what the function returns, separated by " | ". `{x}` is the
        argument (`{a}` and `{b}` of a pair), other names in braces are constants.
      expression: a right function's body after `return`; or all lines of the body.
      constants: name -> choices. A choice may be a pair of a wording and its code,
        `{p[0]}` and `{p[1]}` of the constant `p`, which may name constants themselves.
      held_out: whether `train` leaves it out.
      telling: whether hidden calls are added that expose functions with one mistake.
    """

    id: str
    names: str
    domain: str
    demands: str
    expression: str
    constants: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    held_out: bool = False
    telling: bool = False

    def draw(self, rng: random.Random) -> Draft:
        """One random problem of the family."""
        name = rng.choice((*self.names.split(), *_NAMES))
        signature = rng.choice(_ARGUMENTS[self.domain])
        constants = {k: rng.choice(list(v)) for k, v in self.constants.items()}
        if "j" in constants:  # a range's upper end, above its lower end
            constants["j"] += constants["k"]
        first, _, second = signature.partition(", ")
        fields = {"x": first, "a": first, "b": second, **constants}
        fields["kth"] = _ORDINALS.get(constants.get("k"), f"{constants.get('k')}th")
        if isinstance(constants.get("k"), int):
            fields["below"] = constants["k"] - 1
        for key, value in constants.items():
            if isinstance(value, tuple):
                fields[key] = tuple(part.format(**fields) for part in value)
        demand = rng.choice(self.demands.split(" | ")).format(**fields)
        verb = rng.choice(("that returns", "returning"))
        body = self.expression.format(**fields)
        if "\n" not in body:
            body = f"return {body}"
        answer = f"def {name}({signature}):\n{textwrap.indent(body, '    ')}"

        def make_data(data_rng: random.Random) -> Mapping[str, Any]:
            draw = functools.partial(make_arguments, self.domain, data_rng)
            calls, expected = self._calls(answer, name, draw, constants)
            return {"function": name, "calls": calls, "expected": expected}

        prompt = f"Write a Python function {name}({signature}) {verb} {demand}."
        return Draft(prompt, answer, make_data)

    def _calls(
        self,
        answer: str,
        name: str,
        draw: Callable[[int, Mapping[str, Any]], tuple[Any, ...]],
        constants: Mapping[str, Any],
    ) -> tuple[list[tuple[Any, ...]], list[Any]]:
        """Hidden calls and what the right function returns for them."""
        function = compiled(answer, name)
        calls = [draw(i, constants) for i in range(_NUM_CALLS)]
        texts = mistakes(answer) if self.telling else ()
        wrong = [one for one in (compiled(text, name) for text in texts) if one]
        for call in calls:
            wrong = [one for one in wrong if agree(one, function, call)]
        for i in range(_NUM_CALLS, _NUM_CALLS + _MAX_DRAWS):
            if not wrong:
                break
            call = draw(i, constants)
            unnoticed = [one for one in wrong if agree(one, function, call)]
            if len(unnoticed) < len(wrong):
                calls.append(call)
                wrong = unnoticed
        return calls, [function(*call) for call in calls]


DIGIT = range(2, 10)
LIMIT = range(2, 13)
