"""Families of small Python functions.

An expected value is computed from the template's own expression, which is trusted
text of this file; the answer's process never sees it.
"""

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

from cycleqd_jax.tasks.pocket.generator import Draft

_NAMES = ("solve", "compute", "calc", "run", "apply", "process")
_ARGUMENTS = {
    "ints": ("xs", "nums", "values", "numbers"),
    "some": ("xs", "nums", "values", "numbers"),
    "unique": ("xs", "nums", "values", "numbers"),
    "words": ("words", "names", "items", "parts"),
    "lengths": ("words", "names", "items", "parts"),
    "text": ("s", "text", "word", "string"),
    "phrase": ("s", "text", "line", "sentence"),
    "int": ("n", "x", "num", "number"),
    "natural": ("n", "x", "num", "number"),
    "pair": ("a, b", "x, y", "m, n", "p, q"),
    "dict": ("d", "scores", "counts", "prices"),
}
_NUM_CALLS = 8
_LETTERS = "abcdeilmnorst"
_WORDS = (
    "tree stone river cat apple lemon note banana sea door moon radio ant eel toast "
    "level civic noon cab deer salt mint rose coral beetle"
).split()
_ORDINALS = {2: "2nd", 3: "3rd", 4: "4th", 5: "5th"}


@dataclasses.dataclass(frozen=True)
class CodingTemplate:
    """One family of functions.

    Attributes:
      id: unique.
      names: function names that fit, besides some that fit everything.
      demands: wordings of what is returned; `{x}` is the argument (`{a}` and `{b}` of
        a pair), other names in braces are constants.
      expression: a right function's body after `return`.
      domain: what the arguments are; see `_argument`.
      constants: name -> choices.
      held_out: whether `train` never sees it.
    """

    id: str
    names: tuple[str, ...]
    demands: tuple[str, ...]
    expression: str
    domain: str
    constants: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    held_out: bool = False

    def draw(self, rng: random.Random) -> Draft:
        """One random problem of the family."""
        name = rng.choice(self.names + _NAMES)
        signature = rng.choice(_ARGUMENTS[self.domain])
        constants = {k: rng.choice(list(v)) for k, v in self.constants.items()}
        if "j" in constants:  # a range's upper end, above its lower end
            constants["j"] += constants["k"]
        first, _, second = signature.partition(", ")
        fields = {"x": first, "a": first, "b": second, **constants}
        fields["kth"] = _ORDINALS.get(constants.get("k"), f"{constants.get('k')}th")
        demand = rng.choice(self.demands).format(**fields)
        verb = rng.choice(("that returns", "returning"))
        expression = self.expression.format(**fields)
        answer = f"def {name}({signature}):\n    return {expression}"

        def make_data(data_rng: random.Random) -> Mapping[str, Any]:
            calls = [
                _arguments(self.domain, data_rng, i, constants)
                for i in range(_NUM_CALLS)
            ]
            function = eval(f"lambda {signature}: {expression}", {})
            expected = [function(*call) for call in calls]
            return {"function": name, "calls": calls, "expected": expected}

        prompt = f"Write a Python function {name}({signature}) {verb} {demand}."
        return Draft(prompt, answer, make_data)


def _arguments(
    domain: str, rng: random.Random, i: int, constants: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The arguments of call `i`: the first ones are edge cases."""
    k = constants.get("k", 4)
    near = [k - 1, k, k + 1] if isinstance(k, int) else [3, 4, 5]
    letter = constants.get("c", "a")
    match domain:
        case "ints":
            if i == 0:
                return ([],)
            if i == 1:
                return ([*near, -near[0], 0, 2 * near[1], near[1], -near[2], 11],)
            spread = (3, 12, 40)[i % 3]
            return ([rng.randint(-spread, spread) for _ in range(rng.randint(1, 11))],)
        case "some":  # never empty
            if i == 1:
                return ([rng.randint(-9, 9)],)
            return ([rng.randint(-20, 30) for _ in range(rng.randint(2, 9))],)
        case "unique":  # at least nine different numbers, `k` among them
            numbers = rng.sample([n for n in range(-20, 40) if n != k], 9) + [k]
            rng.shuffle(numbers)
            return (numbers,)
        case "words":
            if i == 0:
                return ([],)
            words = rng.sample(_WORDS, rng.randint(2, 8))
            words.insert(rng.randrange(len(words)), letter + rng.choice(_WORDS))
            return (words,)
        case "lengths":  # of different lengths
            lengths = rng.sample(range(1, 10), rng.randint(2, 6))
            return (["".join(rng.choices(_LETTERS, k=n)) for n in lengths],)
        case "text":
            if i == 0:
                return ("",)
            if i == 1:
                return (rng.choice(("level", "noon", "civic")),)
            if i == 2:
                return (letter * rng.randint(2, 4),)
            if i == 3:
                return (letter + rng.choice(_WORDS),)
            return (rng.choice(_WORDS) + letter * rng.randint(0, 2) + rng.choice("xyz"),)
        case "phrase":
            if i == 0:
                return ("",)
            return (" ".join(rng.choices(_WORDS, k=rng.randint(1, 7))),)
        case "int":
            fixed = (0, *near, -near[1])
            return (fixed[i] if i < len(fixed) else rng.randint(-60, 60),)
        case "natural":
            fixed = (0, 1, 10)
            return (fixed[i] if i < len(fixed) else rng.randint(2, (30, 999)[i % 2]),)
        case "pair":
            a, b = rng.randint(-15, 20), rng.randint(1, 12)
            return ((a, b) if i % 2 else (b, a)) if i else (7, 7)
        case "dict":
            size = rng.randint(1, 6)
            keys = rng.sample(_WORDS, size + 1)
            rest = [n for n in range(-5, 25) if n != near[1]]
            values = [near[1], *rng.sample(rest, size)]
            rng.shuffle(values)
            return (dict(zip(keys, values, strict=True)),)
    raise ValueError(f"Unknown domain {domain}.")


def _t(
    id_: str,
    names: str,
    demands: str,
    expression: str,
    domain: str,
    held_out: bool = False,
    **constants: Sequence[Any],
) -> CodingTemplate:
    return CodingTemplate(
        id_,
        tuple(names.split()),
        tuple(demands.split(" | ")),
        expression,
        domain,
        constants,
        held_out,
    )


_DIGIT = range(2, 10)
_LIMIT = range(2, 13)

TEMPLATES = (
    # Lists of integers, element by element.
    _t("times", "scale multiply", "the list {x} with each number times {k} | each number in the list {x} multiplied by {k}", "[n * {k} for n in {x}]", "ints", k=_DIGIT),
    _t("plus", "shift add_all", "the list {x} with {k} added to each number | each number in the list {x} plus {k}", "[n + {k} for n in {x}]", "ints", k=_LIMIT),
    _t("minus", "lower subtract", "the list {x} with {k} subtracted from each number | each number in the list {x} minus {k}", "[n - {k} for n in {x}]", "ints", True, k=_LIMIT),
    _t("squares", "squares powers", "a list of the squares of the numbers in {x} | each number in the list {x} squared", "[n ** 2 for n in {x}]", "ints"),
    _t("remainders", "remainders mods", "a list of the remainders of the numbers in {x} modulo {k} | each number in the list {x} modulo {k}", "[n % {k} for n in {x}]", "ints", k=_DIGIT),
    _t("absolutes", "absolutes distances", "a list of the absolute values of the numbers in {x} | each number in the list {x} as absolute value", "[abs(n) for n in {x}]", "ints"),
    _t("by_index", "weighted by_index", "the list {x} with each number times its index | each number in the list {x} multiplied by its index", "[i * n for i, n in enumerate({x})]", "ints"),
    _t("floor_at", "floor_at at_least", "the list {x} with numbers below {k} replaced by {k} | each number in the list {x}, but at least {k}", "[max(n, {k}) for n in {x}]", "ints", k=_LIMIT),
    _t("neighbours", "neighbours pairs", "a list of the sums of neighbouring numbers in {x} | the list of sums of adjacent numbers in {x}", "[a + b for a, b in zip({x}, {x}[1:])]", "ints"),
    # Filters.
    _t("above", "above bigger", "a list of the numbers in {x} greater than {k} | the list {x} with only numbers above {k}", "[n for n in {x} if n > {k}]", "ints", k=_LIMIT),
    _t("below", "below smaller", "a list of the numbers in {x} less than {k} | the list {x} with only numbers below {k}", "[n for n in {x} if n < {k}]", "ints", True, k=_LIMIT),
    _t("evens", "evens even", "a list of the even numbers in {x} | the list {x} with only even numbers", "[n for n in {x} if n % 2 == 0]", "ints"),
    _t("odds", "odds odd", "a list of the odd numbers in {x} | the list {x} with only odd numbers", "[n for n in {x} if n % 2 == 1]", "ints", True),
    _t("divisible", "divisible multiples", "a list of the numbers in {x} divisible by {k} | the list {x} with only multiples of {k}", "[n for n in {x} if n % {k} == 0]", "ints", k=range(3, 10)),
    _t("without", "without remove", "the list {x} without the number {k} | a list of the numbers in {x} not equal to {k}", "[n for n in {x} if n != {k}]", "ints", k=_LIMIT),
    # Numbers from lists.
    _t("sum", "total add", "the sum of the list {x} | the sum of all numbers in {x}", "sum({x})", "ints"),
    _t("sum_plus", "total add", "the sum of the list {x} plus {k} | {k} more than the sum of {x}", "sum({x}) + {k}", "ints", k=_LIMIT),
    _t("sum_below", "sum_below small_sum", "the sum of the numbers in {x} below {k} | the sum of all numbers in {x} less than {k}", "sum(n for n in {x} if n < {k})", "ints", True, k=_LIMIT),
    _t("sum_squares", "sum_squares energy", "the sum of the squares of the numbers in {x} | the sum of squares of {x}", "sum(n * n for n in {x})", "ints"),
    _t("count_above", "count_above how_many", "how many numbers in {x} are greater than {k} | the count of numbers in {x} above {k}", "sum(n > {k} for n in {x})", "ints", k=_LIMIT),
    _t("count", "count occurrences", "how often {k} occurs in the list {x} | the count of {k} in the list {x}", "{x}.count({k})", "ints", k=_LIMIT),
    _t("spread", "spread width", "the largest minus the smallest number in {x} | the maximum of {x} minus its minimum", "max({x}) - min({x})", "some"),
    _t("mean", "mean average", "the mean of the numbers in {x} | the average of the list {x}", "sum({x}) / len({x})", "some"),
    _t("kth_smallest", "smallest pick", "the {kth} smallest number in {x} | the {kth} lowest number in the list {x}", "sorted({x})[{k} - 1]", "unique", k=range(2, 6)),
    _t("position", "position find", "the index of {k} in the list {x} | the position of {k} in the list {x}, counted from 0", "{x}.index({k})", "unique", k=_LIMIT),
    # Yes or no.
    _t("contains", "contains has", "whether {k} is in the list {x} | whether the list {x} contains {k}", "{k} in {x}", "ints", k=_LIMIT),
    _t("all_above", "all_above check", "whether all numbers in {x} are greater than {k} | whether every number in {x} is above {k}", "all(n > {k} for n in {x})", "ints", k=[-3, -2, -1, 0, 1, 2]),
    _t("any_divisible", "any_divisible check", "whether any number in {x} is divisible by {k} | whether some number in {x} is a multiple of {k}", "any(n % {k} == 0 for n in {x})", "some", k=range(3, 10)),
    # Slices and orders.
    _t("first", "first head", "the first {k} items of the list {x} | a list of the first {k} items of {x}", "{x}[:{k}]", "ints", k=range(2, 7)),
    _t("last", "last tail", "the last {k} items of the list {x} | a list of the last {k} items of {x}", "{x}[-{k}:]", "ints", True, k=range(2, 7)),
    _t("drop", "drop skip", "the list {x} without its first {k} items | all items of the list {x} after the first {k}", "{x}[{k}:]", "ints", k=range(2, 7)),
    _t("reverse", "backwards flip", "the list {x} in reverse order | a reversed copy of the list {x}", "{x}[::-1]", "ints"),
    _t("descending", "descending rank", "the list {x} sorted in descending order | a list of the numbers in {x} from largest to smallest", "sorted({x}, reverse=True)", "ints"),
    _t("distinct", "distinct unique", "a sorted list of the distinct numbers in {x} | the list {x} sorted without duplicates", "sorted(set({x}))", "ints"),
    _t("largest", "largest top", "a list of the {k} largest numbers in {x}, largest first | the {k} largest numbers of the list {x} in descending order", "sorted({x}, reverse=True)[:{k}]", "unique", k=range(2, 7)),
    # Words and strings.
    _t("word_lengths", "lengths sizes", "a list of the lengths of the strings in {x} | the list of lengths of the strings in {x}", "[len(w) for w in {x}]", "words"),
    _t("longer", "longer long_words", "a list of the strings in {x} longer than {k} characters | the strings in {x} with more than {k} characters as a list", "[w for w in {x} if len(w) > {k}]", "words", k=range(3, 6)),
    _t("starting", "starting begins", "a list of the strings in {x} starting with '{c}' | the list {x} with only strings starting with '{c}'", "[w for w in {x} if w.startswith('{c}')]", "words", c="abcdemnrst"),
    _t("upper", "shout upper_all", "a list of the strings in {x} in upper case | the list {x} with each string in upper case", "[w.upper() for w in {x}]", "words"),
    _t("join", "join glue", "the strings in {x} joined by '{c}' | one string of all strings in {x} joined by '{c}'", "'{c}'.join({x})", "words", c="-+/:;#_"),
    _t("longest", "longest widest", "the longest string in {x} | the string in {x} with the most characters", "max({x}, key=len)", "lengths"),
    _t("by_length", "by_length order", "the list {x} sorted by length | a list of the strings in {x} from shortest to longest", "sorted({x}, key=len)", "lengths", True),
    _t("count_letter", "count_letter letters", "how often '{c}' occurs in the string {x} | the count of '{c}' in the string {x}", "{x}.count('{c}')", "text", c=_LETTERS),
    _t("swap_letter", "swap_letter change", "the string {x} with each '{c}' replaced by '{d}' | the string {x} after replacing '{c}' by '{d}'", "{x}.replace('{c}', '{d}')", "text", c=_LETTERS, d="xyz_"),
    _t("repeat", "repeat echo", "the string {x} repeated {k} times | {k} copies of the string {x} joined together", "{x} * {k}", "text", k=_DIGIT),
    _t("palindrome", "palindrome mirror", "whether the string {x} is a palindrome | whether the string {x} equals its reverse", "{x} == {x}[::-1]", "text"),
    _t("word_count", "word_count num_words", "the number of words in the string {x} | how many words the string {x} has", "len({x}.split())", "phrase"),
    # Single numbers.
    _t("linear", "linear line", "{k} times {x} plus {m} | {m} more than {k} times {x}", "{k} * {x} + {m}", "int", k=_DIGIT, m=_DIGIT),
    _t("sum_to", "sum_to series", "the sum of the integers from 1 to {x} | the sum of all whole numbers from 1 to {x}", "sum(range(1, {x} + 1))", "natural"),
    _t("multiples", "multiples table", "a list of the first {x} positive multiples of {k} | the list of the first {x} multiples of {k}, starting with {k}", "[{k} * i for i in range(1, {x} + 1)]", "natural", k=_DIGIT),
    _t("digit_sum", "digit_sum cross", "the sum of the digits of {x} | the sum of the decimal digits of the integer {x}", "sum(int(c) for c in str({x}))", "natural"),
    _t("clamp", "clamp limit", "{x} limited to the range from {k} to {j} | {x}, but at least {k} and at most {j}", "max({k}, min({x}, {j}))", "int", k=range(0, 6), j=range(3, 15)),
    _t("divides", "divides is_multiple", "whether {x} is divisible by {k} | whether the integer {x} is a multiple of {k}", "{x} % {k} == 0", "int", k=range(3, 10)),
    _t("larger", "larger best", "the larger of {a} and {b}, plus {k} | the maximum of {a} and {b} plus {k}", "max({a}, {b}) + {k}", "pair", k=_DIGIT),
    _t("difference", "difference gap", "the absolute difference of {a} and {b} | how far apart the numbers {a} and {b} are", "abs({a} - {b})", "pair"),
    # Dictionaries.
    _t("keys_above", "keys_above winners", "a list of the keys of the dict {x} with values above {k} | a list of the keys in the dict {x} whose value is greater than {k}", "[k for k, v in {x}.items() if v > {k}]", "dict", k=_LIMIT),
    _t("value_sum", "value_sum total", "the sum of the values of the dict {x} | the total of all values in the dict {x}", "sum({x}.values())", "dict"),
    _t("best_key", "best_key top", "the key of the dict {x} with the largest value | the key with the highest value in the dict {x}", "max({x}, key={x}.get)", "dict"),
)
