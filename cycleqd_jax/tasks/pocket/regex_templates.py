"""Families of demands for one regular expression.

A "match" family describes whole strings, a "find" family describes parts of a text.
Expected results are computed here, by the right pattern, which is trusted text of this
file. The answer's process never sees them. In a template, `{k}`, `{j}` and `{i}` are
numbers, `{a}` and `{b}` digits, `{c}`, `{e}`, `{C}`, `{f}` and `{g}` letters, `{w}` and
`{v}` words, and `{{` is a brace.
"""

# ruff: noqa: E501 (the families read best as a table)

import dataclasses
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cycleqd_jax.tasks.pocket.generator import Draft
from cycleqd_jax.tasks.pocket.regex_samples import changed, matching

_WORDS = (
    "cat dog sun map key box red ice jam pen owl fox bee hat log net tea van cup bus car "
    "egg ant fan gum ink jet kit lid mud nut oak pig rug sky toy urn vet wax yak zip bat "
    "cow den elf fig gem hen inn jug lip man nap oil pie rat sea tin web bay cab dam"
).split()
_FILLERS = "on at Rome x9 in 7 Oslo to be 42 by Lima up or 365 an".split()
_NUM_TEXTS = {"match": 12, "find": 6}
_POOL = 40  # strings of each kind that the texts are chosen from
# fmt: off
_MISTAKES = (  # part of a pattern, and what may be written in its place
    (r"\+", "*"), (r"\*", "+"), (r",\}", "}"), (r"\{(\d+)\}", r"{\1,}"), (r"\?", ""),
    (r"\.\*", ""), (r"\[\^", "["), (r"\\b", ""),
)
# fmt: on


@dataclasses.dataclass(frozen=True)
class RegexTemplate:
    """One family of patterns.

    Attributes:
      id: unique.
      demands: wordings after "matches" or "finds", separated by " | ".
      pattern: a right regular expression.
      kind: "match" or "find".
      held_out: whether `train` leaves it out.
    """

    id: str
    demands: str
    pattern: str
    kind: str = "match"
    held_out: bool = False

    def draw(self, rng: random.Random) -> Draft:
        """One random problem of the family."""
        fields = _fields(rng)
        answer = self.pattern.format(**fields)
        demand = rng.choice(self.demands.split(" | ")).format(**fields)
        verb = "matches" if self.kind == "match" else "finds"

        def make_data(data_rng: random.Random) -> Mapping[str, Any]:
            texts = self._telling_texts(answer, fields, data_rng)
            expected = [_applied(answer, self.kind, text) for text in texts]
            return {"kind": self.kind, "texts": texts, "expected": expected}

        return Draft(f"Write a regex that {verb} {demand}.", answer, make_data)

    def _telling_texts(
        self, answer: str, fields: Mapping[str, Any], rng: random.Random
    ) -> list[str]:
        """Texts that tell the right pattern from each with one mistake, if there are.

        Half of the strings to match do match, if there are enough different ones.
        """
        mutants = list(self._mutants(answer, fields))
        make = _strings if self.kind == "match" else _texts
        pool = list(dict.fromkeys(make(answer, mutants, fields, rng)))
        found = {text: _applied(answer, self.kind, text) for text in pool}
        size, chosen = _NUM_TEXTS[self.kind], []
        for mutant in mutants:
            tells = [t for t in pool if _applied(mutant, self.kind, t) != found[t]]
            if tells and not any(text in chosen for text in tells):
                chosen.append(tells[0])
        rest = [text for text in pool if text not in chosen]
        while len(chosen) < size and rest:
            few = sum(bool(found[text]) for text in chosen) < size / 2
            chosen.append(next((t for t in rest if bool(found[t]) is few), rest[0]))
            rest.remove(chosen[-1])
        rng.shuffle(chosen)
        return chosen

    def _mutants(self, answer: str, fields: Mapping[str, Any]) -> Iterator[str]:
        """Patterns with one mistake: another constant, quantifier or part."""
        for name, value in fields.items():
            if isinstance(value, int):
                others = [value - 1, value + 1]
            elif len(value) == 1:
                others = [chr(ord(value) - 1), chr(ord(value) + 1)]
            else:
                others = ["zoo"]
            for other in others:
                mutant = self.pattern.format(**{**fields, name: other})
                if mutant != answer and _is_valid(mutant):
                    yield mutant
        for old, new in _MISTAKES:
            mutant = re.sub(old, new, answer)
            if mutant != answer and _is_valid(mutant):
                yield mutant


def _is_valid(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _applied(pattern: str, kind: str, text: str) -> Any:
    if kind == "match":
        return bool(re.fullmatch(pattern, text))
    return [found.group() for found in re.finditer(pattern, text)]


def _fields(rng: random.Random) -> dict[str, Any]:
    w, v = rng.sample(_WORDS, 2)
    c, e = rng.sample("abcdefghiklmnoprst", 2)
    k = rng.randint(2, 9)
    return {
        "w": w,
        "v": v,
        "c": c,
        "e": e,
        "C": c.upper(),
        "f": rng.choice("bcdefghij"),
        "g": rng.choice("mnopqrstuvw"),
        "k": k,
        "j": k + rng.randint(1, 6),
        "i": rng.randint(2, 9),
        "a": rng.randint(1, 4),
        "b": rng.randint(5, 8),
    }


def _strings(
    pattern: str,
    mutants: Sequence[str],
    fields: Mapping[str, Any],
    rng: random.Random,
) -> Iterator[str]:
    """Strings that match, or differ in a character, or match another pattern."""
    for mutant in mutants:
        yield from (matching(mutant, rng) for _ in range(3))
    for _ in range(_POOL):
        text = matching(pattern, rng)
        yield from (text, changed(text, rng))
    w, v, k = fields["w"], fields["v"], fields["k"]
    yield from (w, v, w + v, w + "7", "4" * k, w.upper(), f"{w} {v}", fields["c"] * k)


def _texts(
    pattern: str,
    mutants: Sequence[str],
    fields: Mapping[str, Any],
    rng: random.Random,
) -> Iterator[str]:
    """Texts of some words, with none to three matches among them."""
    near = [rng.choice(mutants) for _ in range(_POOL // 2)]
    for i, mutant in enumerate(near):
        parts = [matching(pattern, rng) for _ in range((2, 1, 3, 2, 0, 1)[i % 6])]
        parts += [matching(mutant, rng), *rng.sample(_WORDS, 2)]
        parts += [*rng.sample(_FILLERS, 2), rng.choice((fields["w"], fields["v"]))]
        rng.shuffle(parts)
        yield " ".join(parts)


# fmt: off
TEMPLATES = (
    # Lengths and kinds of characters.
    RegexTemplate("digits_range", "strings of {k} to {j} digits | from {k} to {j} digits", r"\d{{{k},{j}}}"),
    RegexTemplate("lower_range", "strings of {k} to {j} lower case letters | from {k} to {j} lower case letters", r"[a-z]{{{k},{j}}}"),
    RegexTemplate("upper_range", "strings of {k} to {j} capital letters | from {k} to {j} capital letters", r"[A-Z]{{{k},{j}}}", held_out=True),
    RegexTemplate("any_range", "strings of {k} to {j} characters | any {k} to {j} characters", r".{{{k},{j}}}"),
    RegexTemplate("binary_range", "strings of {k} to {j} zeros and ones | {k} to {j} digits, each 0 or 1", r"[01]{{{k},{j}}}", held_out=True),
    RegexTemplate("digits_between", "strings of exactly {k} digits from {a} to {b} | {k} digits, each from {a} to {b}", r"[{a}-{b}]{{{k}}}"),
    RegexTemplate("digits_between_least", "strings of {k} or more digits from {a} to {b} | at least {k} digits, each from {a} to {b}", r"[{a}-{b}]{{{k},}}", held_out=True),
    RegexTemplate("letters_between", "strings of exactly {k} letters from {f} to {g} | {k} letters, each from {f} to {g}", r"[{f}-{g}]{{{k}}}"),
    RegexTemplate("letters_between_least", "strings of {k} or more letters from {f} to {g} | at least {k} letters, each from {f} to {g}", r"[{f}-{g}]{{{k},}}"),
    RegexTemplate("letters_between_range", "strings of {k} to {j} letters from {f} to {g} | {k} to {j} letters, each from {f} to {g}", r"[{f}-{g}]{{{k},{j}}}", held_out=True),
    RegexTemplate("between_number", "a letter from {f} to {g} and then {k} digits | one letter from {f} to {g} and {k} digits", r"[{f}-{g}]\d{{{k}}}"),
    RegexTemplate("number_between", "{k} digits and then a letter from {f} to {g} | {k} digits and one letter from {f} to {g}", r"\d{{{k}}}[{f}-{g}]"),
    RegexTemplate("only_two", "strings of {k} or more letters, each {c} or {e} | at least {k} letters, only {c} and {e}", r"[{c}{e}]{{{k},}}"),
    RegexTemplate("only_two_exact", "strings of exactly {k} letters, each {c} or {e} | {k} letters, only {c} and {e}", r"[{c}{e}]{{{k}}}"),
    RegexTemplate("without_letter", "strings of {k} or more characters without {c} | at least {k} characters, none of them {c}", r"[^{c}]{{{k},}}"),
    RegexTemplate("without_two", "strings of {k} or more characters without {c} and {e} | at least {k} characters, none of them {c} or {e}", r"[^{c}{e}]{{{k},}}", held_out=True),
    RegexTemplate("without_exact", "strings of exactly {k} characters without {c} | {k} characters, none of them {c}", r"[^{c}]{{{k}}}"),
    RegexTemplate("repeated", "the letter {c} repeated {k} to {j} times | {k} to {j} times the letter {c}", r"{c}{{{k},{j}}}"),
    RegexTemplate("repeated_least", "the letter {c} repeated {k} or more times | at least {k} times the letter {c}", r"{c}{{{k},}}", held_out=True),
    RegexTemplate("repeated_exact", "the letter {c} repeated {k} times and then {e} | {k} times the letter {c} followed by {e}", r"{c}{{{k}}}{e}"),
    RegexTemplate("capital_range", "a capital letter and then {k} to {j} lower case letters | one capital and {k} to {j} lower case letters", r"[A-Z][a-z]{{{k},{j}}}"),
    # Prefixes and suffixes.
    RegexTemplate("starts", "strings that start with {w} | any string beginning with {w}", r"{w}.*"),
    RegexTemplate("ends", "strings that end with {w} | any string ending in {w}", r".*{w}"),
    RegexTemplate("contains", "strings that contain {w} | any string with {w} in it", r".*{w}.*"),
    RegexTemplate("starts_ends", "strings that start with {w} and end with {v} | any string from {w} to {v}", r"{w}.*{v}"),
    RegexTemplate("starts_ends_letters", "strings that start with {c} and end with {e} | any string from the letter {c} to the letter {e}", r"{c}.*{e}", held_out=True),
    RegexTemplate("starts_letters", "strings that start with {c} or {e} | any string beginning with the letter {c} or {e}", r"[{c}{e}].*"),
    RegexTemplate("ends_letters", "strings that end with {c} or {e} | any string ending in the letter {c} or {e}", r".*[{c}{e}]", held_out=True),
    RegexTemplate("starts_digit", "a digit and then {w} and anything | any string beginning with a digit and {w}", r"\d{w}.*"),
    RegexTemplate("ends_digits", "strings that start with {w} and end with a digit | any string from {w} to a digit", r"{w}.*\d"),
    RegexTemplate("starts_number", "strings that start with a digit and end with {w} | any string from a digit to {w}", r"\d.*{w}", held_out=True),
    RegexTemplate("ends_number", "strings that end with {w} and {k} digits | any string ending in {w} and {k} digits", r".*{w}\d{{{k}}}"),
    RegexTemplate("starts_either", "strings that start with {w} or {v} | any string beginning with {w} or {v}", r"({w}|{v}).*"),
    RegexTemplate("ends_either", "strings that end with {w} or {v} | any string ending in {w} or {v}", r".*({w}|{v})", held_out=True),
    RegexTemplate("contains_both", "strings that contain {w} and later {v} | any string with {w} and after it {v}", r".*{w}.*{v}.*", held_out=True),
    # Words in a fixed form.
    RegexTemplate("either", "{w} or {v} | the strings {w} and {v}", r"{w}|{v}"),
    RegexTemplate("either_number", "{w} or {v}, then {k} digits | the word {w} or {v} and {k} digits", r"({w}|{v})\d{{{k}}}"),
    RegexTemplate("number_either", "{k} digits, then {w} or {v} | {k} digits and the word {w} or {v}", r"\d{{{k}}}({w}|{v})", held_out=True),
    RegexTemplate("word_number", "{w} and then {k} digits | the word {w} followed by {k} digits", r"{w}\d{{{k}}}"),
    RegexTemplate("word_digits", "{w} and then {k} or more digits | the word {w} followed by at least {k} digits", r"{w}\d{{{k},}}"),
    RegexTemplate("number_word", "{k} digits and then {w} | the word {w} after {k} digits", r"\d{{{k}}}{w}", held_out=True),
    RegexTemplate("word_letters", "{w} and then {k} capital letters | the word {w} followed by {k} capital letters", r"{w}[A-Z]{{{k}}}"),
    RegexTemplate("letters_word", "{k} capital letters and then {w} | the word {w} after {k} capital letters", r"[A-Z]{{{k}}}{w}", held_out=True),
    RegexTemplate("optional", "{w}, perhaps followed by {c} | the word {w} with or without {c} at its end", r"{w}{c}?"),
    RegexTemplate("optional_before", "{w}, perhaps after {c} | the word {w} with or without {c} before it", r"{c}?{w}", held_out=True),
    RegexTemplate("optional_number", "{w}, perhaps followed by digits | the word {w} with or without digits at its end", r"{w}\d*"),
    RegexTemplate("two_words", "{w}, one or more blanks, then {v} | {w} and {v} with blanks between them", r"{w}\s+{v}"),
    RegexTemplate("joined", "{w} and {v} with - or _ between them | the words {w} and {v} joined by - or _", r"{w}[-_]{v}"),
    RegexTemplate("code", "{k} capital letters, -, then {i} digits | {k} capital letters and {i} digits joined by -", r"[A-Z]{{{k}}}-\d{{{i}}}"),
    RegexTemplate("code_back", "{k} digits, -, then {i} capital letters | {k} digits and {i} capital letters joined by -", r"\d{{{k}}}-[A-Z]{{{i}}}", held_out=True),
    RegexTemplate("code_numbers", "{k} digits, -, then {i} digits | {k} digits and {i} digits joined by -", r"\d{{{k}}}-\d{{{i}}}"),
    RegexTemplate("code_letters", "{k} lower case letters, a blank, then {i} digits | {k} lower case letters and {i} digits after a blank", r"[a-z]{{{k}}} \d{{{i}}}", held_out=True),
    RegexTemplate("file", "file names of lower case letters that end in .{w} | one or more lower case letters and then .{w}", r"[a-z]+\.{w}"),
    RegexTemplate("file_number", "file names of digits that end in .{w} | one or more digits and then .{w}", r"\d+\.{w}", held_out=True),
    RegexTemplate("decimal", "{k} digits, a point, then {i} digits | numbers with {k} digits before and {i} after the point", r"\d{{{k}}}\.\d{{{i}}}"),
    RegexTemplate("tagged", "{k} digits in round brackets after {w} | the word {w} and then {k} digits in round brackets", r"{w}\(\d{{{k}}}\)", held_out=True),
    # Parts of a text.
    RegexTemplate("find_range", "all digits from {a} to {b} in a text, {k} or more in a row | every run of at least {k} digits from {a} to {b} in a text", r"[{a}-{b}]{{{k},}}", "find"),
    RegexTemplate("find_starting", "all words in a text that start with {w} | every word with {w} at its beginning in a text", r"\b{w}\w*", "find"),
    RegexTemplate("find_ending", "all words in a text that end with {w} | every word with {w} at its end in a text", r"\w*{w}\b", "find", held_out=True),
    RegexTemplate("find_word", "every {w} in a text | all places with {w} in a text", r"{w}", "find"),
    RegexTemplate("find_either", "every {w} and every {v} in a text | all places with {w} or {v} in a text", r"{w}|{v}", "find"),
    RegexTemplate("find_code", "every {c} with {k} digits after it in a text | all places with {c} and then {k} digits in a text", r"{c}\d{{{k}}}", "find"),
    RegexTemplate("find_tag", "every {w} with digits after it in a text | all places with {w} and then one or more digits in a text", r"{w}\d+", "find"),
    RegexTemplate("find_number", "every number before {w} in a text, with {w} | all places with one or more digits and then {w} in a text", r"\d+{w}", "find", held_out=True),
    RegexTemplate("find_capitals", "every {C} with {k} lower case letters after it in a text | all places with {C} and then {k} lower case letters in a text", r"{C}[a-z]{{{k}}}", "find"),
)
# fmt: on
