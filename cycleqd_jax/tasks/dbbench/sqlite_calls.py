"""Calls of MySQL's functions as SQL for SQLite.

A signature is written as letters: those before `>` are what the function registered
under `m_NAME` takes, the one behind what it gives. t text, i integer, d double, D date
and time as text, T time, n decimal digits, x as it is; `?` what precedes may be
missing, `*` may be repeated; results besides: D date, S date with time, T time,
B bytes, J JSON.
"""

import functools
from collections.abc import Callable

from cycleqd_jax.tasks.dbbench.sqlite_errors import MySQLError
from cycleqd_jax.tasks.dbbench.sqlite_scope import Scope
from cycleqd_jax.tasks.dbbench.sqlite_special import SPECIAL
from cycleqd_jax.tasks.dbbench.sqlite_types import (
    BINARY,
    DATE,
    DATETIME,
    DOUBLE,
    INT,
    JSON,
    TEMPORAL,
    TEXT,
    TIME,
    Kind,
    Type,
    Value,
    to_datetime,
    to_decimal,
    to_double,
    to_integer,
    to_number,
    to_text,
)

_SIGNATURES = """
UPPER t>t; UCASE t>t=UPPER; LOWER t>t; LCASE t>t=LOWER; REVERSE t>t; LTRIM t>t
RTRIM t>t; TRIM ttt>t; LEFT ti>t; RIGHT ti>t; SUBSTRING tii?>t
SUBSTR tii?>t=SUBSTRING; MID tii>t=SUBSTRING; REPLACE ttt>t; SUBSTRING_INDEX tti>t
LPAD tit>t; RPAD tit>t; REPEAT ti>t; SPACE i>t; INSERT tiit>t; QUOTE t>t; SOUNDEX t>t
CONCAT t*>t; CONCAT_WS t*>t; CHAR_USING i*>t; TO_BASE64 t>t; MD5 t>t; SHA1 t>t
SHA t>t=SHA1; SHA2 ti>t; CONV tii>t; BIN i>t; OCT i>t; ELT it*>t; MAKE_SET it*>t
EXPORT_SET ittti?>t; HEX x>t; REGEXP_REPLACE ttti?i?t?>t; REGEXP_SUBSTR tti?i?t?>t
FORMAT_NUMBER ni>t; LENGTH t>i; OCTET_LENGTH t>i=LENGTH; CHAR_LENGTH t>i
CHARACTER_LENGTH t>i=CHAR_LENGTH; BIT_LENGTH t>i; LOCATE tti?>i; INSTR tt>i; ASCII t>i
ORD t>i; FIND_IN_SET tt>i; CRC32 t>i; BIT_COUNT i>i; REGEXP_LIKE ttt?>i
REGEXP_INSTR tti?i?i?t?>i; UNHEX t>B; FROM_BASE64 t>B; CHAR i*>B; BYTES t>B
ENCODE t>B; POW dd>d; POWER dd>d=POW; SQRT d>d; EXP d>d; LN d>d; LOG dd?>d; LOG2 d>d
LOG10 d>d; SIN d>d; COS d>d; TAN d>d; COT d>d; ASIN d>d; ACOS d>d; ATAN dd?>d
ATAN2 dd>d=ATAN; RAND i?>d; DEGREES d>d; RADIANS d>d; YEAR D>i; MONTH D>i; DAY D>i
DAYOFMONTH D>i=DAY; DAYOFWEEK D>i; WEEKDAY D>i; DAYOFYEAR D>i; QUARTER D>i; WEEK Di?>i
WEEKOFYEAR D>i; YEARWEEK Di?>i; TO_DAYS D>i; TO_SECONDS D>i; DATEDIFF DD>i
TIMESTAMPDIFF tDD>i; PERIOD_DIFF ii>i; PERIOD_ADD ii>i; HOUR T>i; MINUTE T>i
SECOND T>i; MICROSECOND T>i; TIME_TO_SEC T>i; MONTHNAME D>t; DAYNAME D>t
DATE_FORMAT Dtt?>t; TIME_FORMAT Tt>t; DATE D>D; LAST_DAY D>D; MAKEDATE ii>D
FROM_DAYS i>D; TIME T>T; MAKETIME iid>T; SEC_TO_TIME d>T; TIMEDIFF xx>T
CONVERT_TZ Dtt>S; JSON_EXTRACT tt*>J; JSON_UNQUOTE t>t; JSON_VALID t>i
JSON_LENGTH tt?>i; JSON_TYPE t>t; JSON_KEYS t>J; JSON_ARROW tt>J=JSON_EXTRACT
JSON_ARROWS tt>t; UUID >t; SLEEP d>i; GET_LOCK td>i; RELEASE_LOCK t>i; LOAD_FILE t>t
FORMAT_BYTES d>t
"""
_RESULTS = {
    "t": TEXT,
    "i": INT,
    "d": DOUBLE,
    "B": BINARY,
    "D": DATE,
    "S": DATETIME,
    "T": TIME,
    "J": JSON,
}
_CONVERSIONS: dict[str, Callable[[Value], str]] = {
    "t": to_text,
    "d": to_double,
    "D": to_datetime,
    "n": to_decimal,
    "x": lambda value: value.sql,
    "i": lambda value: to_integer(_number(value)),
    "T": lambda value: _time(value),
}


def call(name: str, arguments: list[Value], scope: Scope) -> Value:
    """A call of a function.

    Args:
      name: in capitals.
      arguments: compiled.
      scope: for what depends on the session.

    Raises:
      MySQLError: no such function (1305), or the number of arguments is wrong (1582).
    """
    special = SPECIAL.get(name)
    if special is not None:
        least, most, compiled = special
        if not least <= len(arguments) <= most:
            raise _wrong_count(name)
        return compiled(arguments, scope)
    signature = _signatures().get(name)
    if signature is None:
        raise unknown_function(name, scope)
    letters, least, repeats, result, own = signature
    if len(arguments) < least or (len(arguments) > len(letters) and not repeats):
        raise _wrong_count(name)
    padded = letters + letters[-1:] * (len(arguments) - len(letters))
    compiled = [
        _CONVERSIONS[letter](value)
        for letter, value in zip(padded, arguments, strict=False)
    ]
    kind = _RESULTS[result]
    if result == "t" and letters[:1] == "t":
        exact = any(v.type.exact for v in arguments)
        kind = Type(Kind.TEXT, exact=exact)
    return Value(f"m_{own.lower()}({', '.join(compiled)})", kind)


def is_known(name: str) -> bool:
    """Whether there is a function of this name, in capitals."""
    return name in SPECIAL or name in _signatures()


def unknown_function(name: str, scope: Scope) -> MySQLError:
    """Error 1305."""
    return MySQLError(1305, f"FUNCTION {scope.database}.{name} does not exist")


def interval_sum(value: Value, amount: Value, unit: str, sign: str) -> Value:
    """`value` + or - INTERVAL `amount` `unit`."""
    name = "DATE_ADD" if sign == "+" else "DATE_SUB"
    least, most, compiled = SPECIAL[name]
    del least, most
    return compiled([value, amount, Value(f"'{unit}'", TEXT, unit)], None)


def _wrong_count(name: str) -> MySQLError:
    return MySQLError(
        1582, f"Incorrect parameter count in the call to native function '{name}'"
    )


def _number(value: Value) -> Value:
    return value if value.type.kind is Kind.TEXT else to_number(value)


def _time(value: Value) -> str:
    if value.type.kind is Kind.TIME:
        return value.sql
    if value.type.kind in TEMPORAL:
        return f"m_time({value.sql})"
    return f"m_time({to_text(value)})"


@functools.cache
def _signatures() -> dict[str, tuple[str, int, bool, str, str]]:
    """Name -> (letters, how many are needed, the last repeats, result, own name)."""
    found = {}
    for entry in _SIGNATURES.replace("\n", ";").split(";"):
        if not entry.strip():
            continue
        name, _, signature = entry.strip().partition(" ")
        signature, _, own = signature.partition("=")
        taken, _, result = signature.partition(">")
        letters = taken.replace("?", "").replace("*", "")
        least = len(letters) - taken.count("?")
        found[name] = (letters, least, taken.endswith("*"), result, own or name)
    return found
