"""Scorers of text: exact, contains, number and choice.

All compare texts in Unicode's form NFC in which every run of blanks is one space and
which have none at their ends. Every rule takes a time that grows with the length of a
reply only, and longer replies than `LONGEST` are wrong.
"""

import decimal
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cycleqd_jax.errors import show
from cycleqd_jax.tasks.own.options import OwnOptions
from cycleqd_jax.tasks.own.rows import Row, as_text, field, value_of

LONGEST = 20_000  # characters of a reply
_LONGEST_NUMBER = 60  # characters of a number
# A minus is no sign behind a letter or digit, and no number begins within a word.
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]{1,3}(?![0-9]))?"
)
_ANSWER_IS = re.compile(r"answer(?:\s+is)?\s*:?\s*", re.IGNORECASE)
_AROUND = " .,:;!?\"'`()[]*_"  # around a choice
_LABELLED = re.compile(r"\(?([A-Za-z])[).:]")


class Verdict(NamedTuple):
    """The verdict on a reply.

    Attributes:
      found: what was taken from the reply; empty if there was nothing to take.
      wrong: why it is wrong, in a line; empty if it is right.
    """

    found: str
    wrong: str


RIGHT = ""
NOTHING = "The reply holds nothing to judge."


def normal(text: str, ignore_case: bool = False) -> str:
    """A text as texts are compared."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return text.casefold() if ignore_case else text


def whole(text: str, ignore_case: bool) -> str:
    """A text as `exact` compares it: without one full stop at its end."""
    return normal(normal(text, ignore_case).removesuffix("."))


def last_number(text: str) -> decimal.Decimal | None:
    """The last number in a text; None if there is none, or one of over 60 characters.

    Digits may be grouped by commas; a fraction follows a full stop, an exponent an e.
    """
    plain = text.replace("\N{MINUS SIGN}", "-")
    found = [match.group() for match in _NUMBER.finditer(plain)]
    if not found or len(found[-1]) > _LONGEST_NUMBER:
        return None
    return decimal.Decimal(found[-1].replace(",", ""))


class TextScorer:
    """Judges replies by their text."""

    def __init__(self, options: OwnOptions):
        """Makes a scorer with the settings of a task."""
        self._options = options

    def read(self, row: Row) -> dict[str, Any]:
        """The data by which a row's replies are judged.

        Raises:
          BadInputError: the row lacks a field.
          ValueError: the answer cannot be used; says why, without the place.
        """
        raise NotImplementedError

    def shown(self, data: Mapping[str, Any]) -> dict[str, str]:
        """Texts for a prompt, in place of fields of the row."""
        return {}

    def gold(self, data: Mapping[str, Any]) -> str | None:
        """A right reply, where the answer is one."""
        return data["answers"][0]

    def judge(self, data: Mapping[str, Any], reply: str) -> Verdict:
        """The verdict on a reply of at most `LONGEST` characters."""
        raise NotImplementedError


class Exact(TextScorer):
    """The whole reply is the answer, or one of a list of answers."""

    def read(self, row: Row) -> dict[str, Any]:
        """See `TextScorer.read`."""
        value = value_of(row, "answer", self._options.answer)
        values = value if isinstance(value, list) else [value]
        texts = [as_text(row, "the answer", each) for each in values]
        if not texts or not all(whole(text, False) for text in texts):
            raise ValueError("the answer is empty")
        return {"answers": texts}

    def judge(self, data: Mapping[str, Any], reply: str) -> Verdict:
        """See `TextScorer.judge`."""
        ignore = self._options.ignore_case
        found = whole(reply, ignore)
        right = any(found == whole(text, ignore) for text in data["answers"])
        return Verdict(found, "" if right else f"It is {found!r:.120}.")


class Contains(Exact):
    """The answer, or one of a list, is in the reply, and not within a longer word."""

    def judge(self, data: Mapping[str, Any], reply: str) -> Verdict:
        """See `TextScorer.judge`."""
        ignore = self._options.ignore_case
        text = normal(reply, ignore)
        for answer in data["answers"]:
            if re.search(_as_words(normal(answer, ignore)), text):
                return Verdict(normal(answer, ignore), RIGHT)
        return Verdict(
            text, f"The answer is not in {text!r:.120}." if text else NOTHING
        )


class Number(TextScorer):
    """The last number of the reply is the last number of the answer."""

    def read(self, row: Row) -> dict[str, Any]:
        """See `TextScorer.read`."""
        text = as_text(row, "the answer", value_of(row, "answer", self._options.answer))
        number = last_number(text)
        if number is None:
            raise ValueError(f"the answer is {show(text)}; expected a number in it")
        return {"answers": [text], "number": number}

    def judge(self, data: Mapping[str, Any], reply: str) -> Verdict:
        """See `TextScorer.judge`."""
        found, wanted = last_number(reply), data["number"]
        if found is None:
            return Verdict("", "The reply has no number.")
        room = decimal.Decimal(self._options.tolerance) * abs(wanted)
        right = found == wanted or abs(found - wanted) <= room
        return Verdict(str(found), "" if right else f"It is {found}.")


class Choice(TextScorer):
    """The reply names one of the choices, or its letter if the prompt shows letters."""

    def __init__(self, options: OwnOptions):
        """Says under which name a prompt shows the choices with letters."""
        super().__init__(options)
        own = isinstance(options.choices, str)
        self._place = options.choices if own else "choices"
        self._lettered = f"{{{self._place}}}" in options.prompt

    def read(self, row: Row) -> dict[str, Any]:
        """See `TextScorer.read`."""
        choices = self._choices(row)
        if not 2 <= len(choices) <= 26:
            raise ValueError(f"there are {len(choices)} choices; expected 2 to 26")
        keys = [_bare(choice) for choice in choices]
        if not all(keys) or len(set(keys)) < len(keys):
            raise ValueError(
                f"the choices {show(', '.join(choices))} are not all different texts"
            )
        text = as_text(row, "the answer", value_of(row, "answer", self._options.answer))
        if not text.strip():
            raise ValueError("the answer is empty")
        place = self._place_of(text, keys)
        if place is None:
            raise ValueError(
                f"the answer {show(text)} is not among the choices "
                f"{show(', '.join(choices))}"
            )
        return {"choices": choices, "keys": keys, "place": place}

    def _choices(self, row: Row) -> list[str]:
        given = self._options.choices
        if not isinstance(given, str):
            return list(given or ())
        value = field(row, "choices", given)
        if isinstance(value, str):  # as CSV has it
            value = [part.strip() for part in value.split("|")]
        if not isinstance(value, list):
            raise ValueError(
                f"the field {show(given)} is {type(value).__name__}; expected a list "
                "of choices, or a text with | between them"
            )
        return [as_text(row, "a choice", each) for each in value]

    def shown(self, data: Mapping[str, Any]) -> dict[str, str]:
        """The choices, one a line, each with its letter."""
        lines = [f"{_letter(i)}) {text}" for i, text in enumerate(data["choices"])]
        return {str(self._place): "\n".join(lines)}

    def gold(self, data: Mapping[str, Any]) -> str | None:
        """The letter where the prompt has letters, else the choice."""
        place = data["place"]
        return _letter(place) if self._lettered else data["choices"][place]

    def judge(self, data: Mapping[str, Any], reply: str) -> Verdict:
        """See `TextScorer.judge`."""
        text, keys = normal(reply), data["keys"]
        place = self._place_of(text, keys)
        if place is None:
            place = self._begins(text, keys)
        if place is None:
            *_, end = 0, *(match.end() for match in _ANSWER_IS.finditer(text))
            rest = text[end:] if end else ""
            place = self._place_of(rest.partition(" ")[0], keys)
            if place is None:
                place = _only_one(rest.casefold(), keys)
        if place is None:
            place = _only_one(text.casefold(), keys)
        if place is None:
            return Verdict("", "The reply names no choice, or several.")
        found = data["choices"][place]
        return Verdict(
            found, "" if place == data["place"] else f"It is {found!r:.120}."
        )

    def _place_of(self, text: str, keys: Sequence[str]) -> int | None:
        """The choice that a text is, by itself."""
        bare = _bare(text)
        if bare in keys:
            return keys.index(bare)
        if self._lettered and len(bare) == 1 and "a" <= bare <= "z":
            place = ord(bare) - ord("a")
            return place if place < len(keys) else None
        return None

    def _begins(self, text: str, keys: Sequence[str]) -> int | None:
        """The choice whose letter a text begins with, as "B)", "(B)", "B." or "B:"."""
        found = _LABELLED.match(text)
        if not self._lettered or found is None:
            return None
        return self._place_of(found.group(1), keys)


def _only_one(text: str, keys: Sequence[str]) -> int | None:
    """The one choice that is in a text, not within a longer word; the longest first."""
    longest = sorted(keys, key=len, reverse=True)
    pattern = "|".join(_as_words(key) for key in longest)
    found = {match.group() for match in re.finditer(pattern, text)}
    return keys.index(found.pop()) if len(found) == 1 else None


def _bare(text: str) -> str:
    """A choice as it is compared: without case and without marks around it."""
    text = normal(text, ignore_case=True)
    return text.strip(_AROUND) or text


def _letter(place: int) -> str:
    return chr(ord("A") + place)


def _as_words(text: str) -> str:
    """A pattern of a text that is not within a longer word."""
    before = r"(?<!\w)" if re.match(r"\w", text[:1]) else ""
    after = r"(?!\w)" if re.match(r"\w", text[-1:]) else ""
    return f"{before}{re.escape(text)}{after}"
