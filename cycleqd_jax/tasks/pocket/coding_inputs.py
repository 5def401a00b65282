"""Arguments of the hidden calls: edge cases first, then values near the constants."""

import random
from collections.abc import Mapping
from typing import Any

LETTERS = "abcdeilmnorst"
_WORDS = (
    "tree stone river cat apple lemon note banana sea door moon radio ant eel toast "
    "level civic noon cab deer salt mint rose coral beetle"
).split()


def make_arguments(
    domain: str, rng: random.Random, i: int, constants: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The arguments of one hidden call.

    Args:
      domain: "ints", "high" and "low" (ints, mostly above or below `k`), "some" (ints,
        never empty), "unique" (ten different ints with `k`), "words", "lengths" (words
        of different lengths), "text" (a word), "phrase", "int", "natural", "upto" (a
        smaller natural), "pair", "dict" (with different values, `k` and `k + 1` among
        them), "prices" (a dict with one value near `k`), "runs" (ints, equal ones
        side by side) or "lists" (two lists of ints).
      rng: consumed.
      i: the call's number; the first calls are edge cases.
      constants: of the problem; arguments lie on both sides of them.
    """
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
            numbers = [rng.randint(-spread, spread) for _ in range(rng.randint(1, 11))]
            close = near[1] if i % 2 else rng.choice((near[0], near[2]))
            numbers.insert(rng.randint(0, len(numbers)), close)
            return (numbers,)
        case "high":  # all above `k`, or all but one
            numbers = [near[2] + rng.randint(0, 20) for _ in range(rng.randint(1, 8))]
            if i == 0:
                return ([],)
            last = near[1] - rng.choice((0, 0, 7)) if i % 2 else near[2]
            numbers.insert(rng.randint(0, len(numbers)), last)
            return (numbers,)
        case "low":  # none above `k`, or one
            numbers = [near[0] - rng.randint(0, 20) for _ in range(rng.randint(1, 8))]
            if i == 0:
                return ([],)
            last = near[2] if i % 2 else near[1]
            numbers.insert(rng.randint(0, len(numbers)), last)
            return (numbers,)
        case "runs":
            if i == 0:
                return ([],)
            runs = [
                (rng.randint(k - 3, k + 3), rng.choice((1, 1, 2, 3))) for _ in "12345"
            ]
            return ([n for n, length in runs for _ in range(length)],)
        case "lists":  # some of their numbers are equal, some in the same place
            left = rng.sample(range(k - 8, k + 9), rng.randint(3, 6))
            right = rng.sample(range(k - 8, k + 9), len(left))
            for place in rng.sample(range(len(left)), 2):
                right[place] = left[rng.choice((place, -1 - place))]
            return (left, right)
        case "some":  # never empty
            if i == 1:
                return ([rng.randint(-9, 9)],)
            return ([rng.randint(-20, 30) for _ in range(rng.randint(2, 9))],)
        case "unique":  # at least nine different numbers, `k` among them
            numbers = rng.sample([n for n in range(-20, 40) if n != k], 9)
            numbers.append(k)
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
            return (["".join(rng.choices(LETTERS, k=n)) for n in lengths],)
        case "text":
            if i == 0:
                return ("",)
            if i == 1:
                return (rng.choice(("level", "noon", "civic")),)
            if i == 2:
                return (letter * rng.randint(2, 4),)
            if i == 3:
                return (letter + rng.choice(_WORDS),)
            return (
                rng.choice(_WORDS) + letter * rng.randint(0, 2) + rng.choice("xyz"),
            )
        case "phrase":
            if i == 0:
                return ("",)
            return (" ".join(rng.choices(_WORDS, k=rng.randint(1, 7))),)
        case "int":
            fixed = [0, *near, -near[1]]
            if "j" in constants:
                fixed = [-near[1], *near, *(constants["j"] + n for n in (-1, 0, 1))]
            return (fixed[i] if i < len(fixed) else rng.randint(-60, 60),)
        case "natural":
            fixed = (0, 1, 10)
            return (fixed[i] if i < len(fixed) else rng.randint(2, (30, 999)[i % 2]),)
        case "upto":
            return ((0, 1)[i] if i < 2 else rng.randint(2, 90),)
        case "pair":
            a, b = rng.randint(-15, 20), rng.randint(1, 12)
            return ((a, b) if i % 2 else (b, a)) if i else (7, 7)
        case "dict":
            size = rng.randint(1, 6)
            keys = rng.sample(_WORDS, size + 2)
            rest = [n for n in range(-5, 25) if n not in near[1:]]
            values = [*near[1:], *rng.sample(rest, size)]
            rng.shuffle(values)
            return (dict(zip(keys, values, strict=True)),)
        case "prices":
            size = rng.randint(1, 6)
            rest = [n for n in range(k - 10, k + 12) if n not in near]
            values = [near[i % 3], *rng.sample(rest, size)]
            rng.shuffle(values)
            return (dict(zip(rng.sample(_WORDS, len(values)), values, strict=True)),)
    raise ValueError(f"Unknown domain {domain}.")
