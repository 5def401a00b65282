"""Splitting MySQL's text into tokens, as the server does it."""

import enum
import re
from typing import NamedTuple

from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour, syntax_error


class Kind(enum.Enum):
    """What a token is."""

    WORD = enum.auto()  # a keyword, a name, or a function
    QUOTED = enum.auto()  # `name`
    STRING = enum.auto()
    NUMBER = enum.auto()
    BYTES = enum.auto()  # x'41', 0x41, b'1'
    VARIABLE = enum.auto()  # @name, @@name
    OPERATOR = enum.auto()
    WRONG = enum.auto()  # a quote that is not closed, to the end
    END = enum.auto()


class Token(NamedTuple):
    """One token.

    Attributes:
      kind: what it is.
      text: as written; of an operator the operator itself.
      value: the name or string without quotes and escapes, of bytes their digits in
        hexadecimal, else the text.
      start: where it begins.
      end: where it ends.
    """

    kind: Kind
    text: str
    value: str
    start: int
    end: int


_SKIP = re.compile(
    r"(?:[\s\x00]+|#[^\n]*|--(?=[\s\x00]|$)[^\n]*|/\*(?!!).*?\*/)+", re.S
)
_TOKEN = re.compile(
    r"""
    (?P<bits> [xX]'[0-9a-fA-F]*' | 0x[0-9a-fA-F]+(?![\w$]) | [bB]'[01]*'
            | 0b[01]+(?![\w$]) )
  | (?P<number> (?: \d+\.\d* | \.\d+ | \d+(?=[eE][+-]?\d) ) (?:[eE][+-]?\d+)?
            | \d+(?![\w$\x80-\U0010ffff]) )
  | (?P<word> [\w$\x80-\U0010ffff]+ )
  | (?P<quoted> `(?:[^`]|``)*` )
  | (?P<string> '(?:[^'\\]|''|\\.)*' | "(?:[^"\\]|""|\\.)*" )
  | (?P<variable> @@?(?:[\w$.]+|`[^`]*`|'[^']*') )
  | (?P<operator> <=> | <> | != | >= | <= | << | >> | && | \|\| | := | ->> | ->
            | [-+*/%^&|~!=<>(),.;{}?:@] )
    """,
    re.X | re.S,
)
_ESCAPES = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a"}
_ESCAPE = re.compile(r"\\(.)", re.S)
_VERSIONED = re.compile(r"/\*M?!\d*(.*?)\*/", re.S)
_DOT = re.compile(r"\.")
_NAMES = (Kind.WORD, Kind.QUOTED)
_AFTER_DOT = re.compile(r"[\w$\x80-\U0010ffff]+")
MAX_CHARACTERS = 200_000


def tokens(sql: str, flavour: Flavour) -> list[Token]:
    """The tokens of `sql`; the last is of kind END.

    Raises:
      MySQLError: it is longer than any statement is allowed to be.
    """
    if len(sql) > MAX_CHARACTERS:
        raise syntax_error(sql[:80], flavour)
    found = []
    position = 0
    while True:
        if space := _SKIP.match(sql, position):
            position = space.end()
        if position >= len(sql):
            break
        match = None
        touches = bool(found) and found[-1].end == position
        if touches and found[-1].text == ".":
            match = _AFTER_DOT.match(sql, position)  # a name, even of digits alone
        if match is not None:
            kind, text = "word", match.group()
        elif touches and sql[position] == "." and found[-1].kind in _NAMES:
            match = _DOT.match(sql, position)
            kind, text = "operator", "."
        else:
            match = _TOKEN.match(sql, position)
            if match is None:  # an error once a reader has come so far
                rest = sql[position:]
                found.append(Token(Kind.WRONG, rest, rest, position, len(sql)))
                break
            kind, text = match.lastgroup, match.group()
        found.append(Token(_KINDS[kind], text, _value(kind, text), *match.span()))
        position = match.end()
    found.append(Token(Kind.END, "", "", len(sql), len(sql)))
    return found


_KINDS = {
    "bits": Kind.BYTES,
    "number": Kind.NUMBER,
    "word": Kind.WORD,
    "quoted": Kind.QUOTED,
    "string": Kind.STRING,
    "variable": Kind.VARIABLE,
    "operator": Kind.OPERATOR,
}


def line_of(sql: str, position: int) -> int:
    """The line, from 1, on which `position` lies."""
    return sql.count("\n", 0, position) + 1


def open_comments(sql: str) -> str:
    """`sql` with comments that the server executes (`/*! ... */`) laid open."""
    if "/*" not in sql:
        return sql
    return _VERSIONED.sub(lambda match: f" {match.group(1)} ", sql)


def _value(kind: str, text: str) -> str:
    if kind == "quoted":
        return text[1:-1].replace("``", "`")
    if kind == "string":
        quote = text[0]
        body = text[1:-1].replace(quote * 2, quote)
        return _ESCAPE.sub(_escaped, body) if "\\" in body else body
    if kind == "bits":
        return _hexadecimal(text)
    if kind == "variable":
        return text.lstrip("@").strip("`'")
    return text


def _escaped(match: re.Match) -> str:
    letter = match.group(1)
    if letter in "%_":  # these keep their backslash, for LIKE
        return match.group()
    return _ESCAPES.get(letter, letter)


def _hexadecimal(text: str) -> str:
    digits = text[2:].rstrip("'")
    if text[0] in "bB" or text[:2] == "0b":
        if not digits:
            return ""
        size = (len(digits) + 7) // 8 * 2
        return f"{int(digits, 2):0{size}x}"
    return digits if len(digits) % 2 == 0 else "0" + digits
