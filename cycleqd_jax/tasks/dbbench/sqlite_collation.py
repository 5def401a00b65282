"""How MySQL orders and compares text.

MySQL 8's `utf8mb4_0900_ai_ci` uses the primary weights of the Unicode Collation
Algorithm (https://unicode.org/reports/tr10/): case and accents do not count, spaces
and signs do and come before digits, digits before letters; trailing spaces count.
MariaDB's `utf8mb4_general_ci` compares capitals without accents by their code points
and does not count trailing spaces.
"""

import functools
import unicodedata
from collections.abc import Callable

from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour

# Characters in the order of their primary weights. What is not here and does not
# decompose into what is here comes behind, in the order of code points.
_ORDER = (
    "\t\n\x0b\x0c\r\x85\u2028\u2029 _\u2017-\u2010\u2011\u2012\u2013\u2014\u2015,;:!"
    "\xa1?\xbf.\xb7'\u2018\u2019\u201a\u201b\u2039\u203a\"\u201c\u201d\u201e\u201f"
    "\xab\xbb()[]{}\xa7\xb6@*/\\&#%\u2030\u2020\u2021\u2022\u2027\u2032\u2033\u203b`"
    "\xb4\u02dc^\xaf\xa8\xb0\xa9\xae\u2116\u2117\u2122\u2190\u2192\u2191\u2193\u2194"
    "\u2195\u2196\u2197\u2198\u2199\u2200\u2202\u2203\u2205\u2206\u2207\u2208\u220f+"
    "\xb1\xf7\xd7<=>\xac|\xa6~\u2212\u2044\u221a\u221e\u2248\u2260\u2264\u2265\u25a0"
    "\u25a1\u25aa\u25ab\u25b2\u25b3\u25ba\u25bc\u25c4\u25c6\u25ca\u25cb\u25cf\u2605"
    "\u2606\u2713\u2714\u266d\u266f\xa4\xa2$\xa3\xa5\u20a3\u20a4\u20a6\u20a7\u20a9"
    "\u20aa\u20ab\u20ac\u20b1\u20b9\u20bd0123456789abcde\u0259fghi\u0131jklmn\u014bop"
    "qrstuvwxyz\xfe\u03b1\u03b2\u03b3\u03b4\u03b5\u03b6\u03b7\u03b8\u03b9\u03ba\u03bb"
    "\u03bc\u03bd\u03be\u03bf\u03c0\u03c1\u03c3\u03c4\u03c5\u03c6\u03c7\u03c8\u03c9"
    "\u0430\u0431\u0432\u0433\u0434\u0452\u0435\u0436\u0437\u0455\u0438\u0439\u0458"
    "\u043a\u043b\u0459\u043c\u043d\u045a\u043e\u043f\u0440\u0441\u0442\u045b\u0443"
    "\u0444\u0445\u0446\u0447\u045f\u0448\u0449\u044a\u044b\u044c\u044d\u044e\u044f"
)
_RANKS = {character: chr(rank + 1) for rank, character in enumerate(_ORDER)}
_LETTERS = {"æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ł": "l", "ħ": "h"}
_LETTERS |= {"\xb5": "\u03bc", "\u03c2": "\u03c3", "\u0439": "\u0439", "ŀ": "l"}
_ASCII = {
    code: _RANKS.get(chr(code).lower(), "")
    for code in range(128)  # control characters do not count
}
_BEYOND = 0x10000  # added to a code point: behind every rank, and no surrogate


@functools.lru_cache(maxsize=1 << 15)
def unicode_key(text: str) -> str:
    """What orders like `utf8mb4_0900_ai_ci`."""
    if text.isascii():
        return text.translate(_ASCII)
    return "".join(map(_unicode_character, unicodedata.normalize("NFC", text)))


@functools.lru_cache(maxsize=1 << 14)
def _unicode_character(character: str) -> str:
    low = character.lower()
    if low in _LETTERS:
        return "".join(_RANKS[c] for c in _LETTERS[low])
    if low in _RANKS:
        return _RANKS[low]
    parts = unicodedata.normalize("NFKD", character.casefold())
    return "".join(_weight(part) for part in parts)


def _weight(character: str) -> str:
    low = character.lower()
    if low in _RANKS:
        return _RANKS[low]
    if low in _LETTERS:
        return "".join(_RANKS[c] for c in _LETTERS[low])
    if unicodedata.category(character) in ("Mn", "Me", "Cc", "Cf"):
        return ""
    code = ord(low[0])
    return chr(code + _BEYOND) if code < 0x100000 else low[0]


@functools.lru_cache(maxsize=1 << 15)
def general_key(text: str) -> str:
    """What orders like `utf8mb4_general_ci`."""
    text = text.rstrip(" ")
    if text.isascii():
        return text.upper()
    return "".join(map(_general_character, text))


@functools.lru_cache(maxsize=1 << 14)
def _general_character(character: str) -> str:
    if ord(character) > 0xFFFF:
        return "\ufffd"
    if character == "ß":
        return "S"
    first = unicodedata.normalize("NFD", character)[0]
    upper = first.upper()
    return upper if len(upper) == 1 else first


def sort_key(flavour: Flavour) -> Callable[[str], str]:
    """What orders like the flavour's default collation."""
    return unicode_key if flavour is Flavour.MYSQL8 else general_key


def comparison(flavour: Flavour) -> Callable[[str, str], int]:
    """A collation for SQLite."""
    key = sort_key(flavour)

    def compare(left: str, right: str) -> int:
        if left == right:
            return 0
        a, b = key(left), key(right)
        return (a > b) - (a < b)

    return compare


def like(text: str, pattern: str, escape: str, fold: Callable[[str], str]) -> bool:
    """Whether `text` is LIKE `pattern`.

    Args:
      text: what is looked at.
      pattern: with % for any characters and _ for one.
      escape: the character that takes the meaning from the next, or "".
      fold: makes equal characters the same.
    """
    tokens: list[str | None] = []  # None: %, "": _, else a folded character
    position = 0
    while position < len(pattern):
        character = pattern[position]
        if character == escape and position + 1 < len(pattern):
            position += 1
            tokens.append(_folded(pattern[position], fold))
        elif character == "%":
            if not tokens or tokens[-1] is not None:
                tokens.append(None)
        elif character == "_":
            tokens.append("")
        else:
            tokens.append(_folded(character, fold))
        position += 1
    return _matches([_folded(c, fold) for c in text], tokens)


def _folded(character: str, fold: Callable[[str], str]) -> str:
    return fold(character) or character


def _matches(text: list[str], tokens: list[str | None]) -> bool:
    at, token = 0, 0
    star, mark = -1, 0
    while at < len(text):
        if token < len(tokens) and tokens[token] is None:
            star, mark = token, at
            token += 1
        elif token < len(tokens) and tokens[token] in ("", text[at]):
            at, token = at + 1, token + 1
        elif star >= 0:
            mark += 1
            at, token = mark, star + 1
        else:
            return False
    while token < len(tokens) and tokens[token] is None:
        token += 1
    return token == len(tokens)
