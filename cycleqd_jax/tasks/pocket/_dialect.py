"""The two dialects of a small language that transforms lists of integers.

A program is some steps with `|` between them; a step is a word and its numbers.

    step        dialect a                           dialect b
    cut p q     items p up to before q, from 0      items p to q, from 1
    from p      items from p on, from 0             the same, from 1
    drop p      without item p, from 0              without item p, from 1
    put p v     item p, from 0, becomes v           put v p: item p, from 1, becomes v
    swap x y    every x becomes y                   every y becomes x
    keep x y    items from x to y                   items from y to x
    sort        smallest first                      largest first
    rsort       largest first                       smallest first
    add k, times k, flip                            the same
    order       the first step is done first        the last step is done first

This file is the interpreter. It runs in the sandbox, so it needs nothing of this
package. It always ends: a program has at most 20 steps, which make no list longer.
"""

_ARGUMENTS = {
    "cut": 2, "from": 1, "drop": 1, "put": 2, "swap": 2, "keep": 2, "sort": 0,
    "rsort": 0, "add": 1, "times": 1, "flip": 0,
}  # fmt: skip
_MAX_STEPS = 20
_MAX_DIGITS = 6


def run(program, items, dialect):
    """The list that a program makes of a list of integers.

    Args:
      program: its text.
      items: the list.
      dialect: "a" or "b".

    Raises:
      ValueError: the text is no program, or a position is not in the list.
    """
    steps = [step.split() for step in program.strip().split("|")]
    if len(steps) > _MAX_STEPS:
        raise ValueError("too many steps")
    for word, *numbers in map(_checked, steps if dialect == "a" else steps[::-1]):
        items = _step(word, numbers, items, dialect == "a")
    return items


def _checked(step):
    word, *numbers = step or ("an empty step",)
    if word not in _ARGUMENTS:
        raise ValueError(f"unknown step: {word[:20]}")
    if len(numbers) != _ARGUMENTS[word]:
        raise ValueError(f"{word} takes {_ARGUMENTS[word]} numbers")
    for number in numbers:
        digits = number[1:] if number.startswith("-") else number
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
            raise ValueError(f"{word} takes whole numbers")
    return word, *map(int, numbers)


def _step(word, numbers, items, is_a):
    first = 0 if is_a else 1  # the number of the first position
    if word in ("put", "swap", "keep") and not is_a:
        numbers = numbers[::-1]
    if word == "cut":
        start, end = numbers[0] - first, numbers[1]
        if start < 0 or end < 0:
            raise ValueError("no such position")
        return items[start:end]
    if word in ("from", "drop", "put"):
        place = numbers[0] - first
        if not 0 <= place < len(items):
            raise ValueError("no such position")
        if word == "from":
            return items[place:]
        new = [] if word == "drop" else [numbers[1]]
        return items[:place] + new + items[place + 1 :]
    if word == "swap":
        return [numbers[1] if n == numbers[0] else n for n in items]
    if word == "keep":
        return [n for n in items if numbers[0] <= n <= numbers[1]]
    if word in ("sort", "rsort"):
        return sorted(items, reverse=(word == "rsort") is is_a)
    if word == "flip":
        return items[::-1]
    return [n + numbers[0] if word == "add" else n * numbers[0] for n in items]
