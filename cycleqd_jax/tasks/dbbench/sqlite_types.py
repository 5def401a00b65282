"""MySQL's types, and the SQL that turns a value of one into another.

Inside SQLite a value is stored as: an integer (INT), a float (DOUBLE, FLOAT), text
(TEXT, JSON; DECIMAL with its digits; DATE, DATETIME and TIME in ISO form), a blob
(BINARY), or NULL. An integer beyond 64 bits is text too.
"""

import dataclasses
import enum


class Kind(enum.IntEnum):
    """What a type is, whatever its size."""

    NULL = 0
    INT = 1
    DECIMAL = 2
    FLOAT = 3
    DOUBLE = 4
    DATE = 5
    DATETIME = 6
    TIME = 7
    TEXT = 8
    JSON = 9
    BINARY = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Type:
    """A type.

    Attributes:
      kind: what it is.
      scale: digits after the point: of DECIMAL always, of DATETIME and TIME those of
        the seconds.
      exact: of TEXT, whether it is compared byte by byte (`utf8mb4_bin`).
    """

    kind: Kind
    scale: int = 0
    exact: bool = False


NULL = Type(Kind.NULL)
INT = Type(Kind.INT)
DOUBLE = Type(Kind.DOUBLE)
FLOAT = Type(Kind.FLOAT)
TEXT = Type(Kind.TEXT)
BINARY = Type(Kind.BINARY)
DATE = Type(Kind.DATE)
DATETIME = Type(Kind.DATETIME)
TIME = Type(Kind.TIME)
JSON = Type(Kind.JSON)
MAX_SCALE = 30

TEXTUAL = frozenset((Kind.TEXT, Kind.JSON, Kind.BINARY))
TEMPORAL = frozenset((Kind.DATE, Kind.DATETIME, Kind.TIME))
APPROXIMATE = frozenset((Kind.DOUBLE, Kind.FLOAT))
NUMERIC = frozenset((Kind.INT, Kind.DECIMAL, Kind.DOUBLE, Kind.FLOAT))


def decimal(scale: int) -> Type:
    """DECIMAL with so many digits after the point, at most 30."""
    return Type(Kind.DECIMAL, min(scale, MAX_SCALE))


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """An expression, compiled.

    Attributes:
      sql: for SQLite; safe to be put anywhere an operand may stand.
      type: what it gives.
      constant: its value if it is a literal, else None.
    """

    sql: str
    type: Type
    constant: str | int | None = None


NULL_VALUE = Value("NULL", NULL)


def merge(types: list[Type]) -> Type:
    """The type that can hold values of all these, as CASE, IFNULL and UNION have it."""
    known = [t for t in types if t.kind is not Kind.NULL]
    if not known:
        return NULL
    kinds = {t.kind for t in known}
    scale = max(t.scale for t in known)
    if kinds <= APPROXIMATE:
        return DOUBLE if Kind.DOUBLE in kinds else FLOAT
    if len(kinds) == 1:
        exact = any(t.exact for t in known)
        return Type(known[0].kind, scale, exact)
    if kinds <= NUMERIC:
        if kinds & APPROXIMATE:
            return DOUBLE
        return decimal(scale)
    if kinds <= TEMPORAL:
        return Type(Kind.DATETIME, scale)
    if Kind.BINARY in kinds:
        return BINARY
    return TEXT


def to_text(value: Value) -> str:
    """SQL of the value as text."""
    kind = value.type.kind
    if kind is Kind.INT:
        return f"CAST({value.sql} AS TEXT)"
    if kind is Kind.DECIMAL:
        return f"m_round({value.sql}, {value.type.scale})"
    if kind is Kind.DOUBLE:
        return f"m_double_text({value.sql})"
    if kind is Kind.FLOAT:
        return f"m_float_text({value.sql})"
    if kind is Kind.BINARY:
        return f"m_decode({value.sql})"
    return value.sql


def to_double(value: Value) -> str:
    """SQL of the value as a float."""
    kind = value.type.kind
    if kind in APPROXIMATE or kind is Kind.NULL:
        return value.sql
    if kind in TEMPORAL:
        return f"m_number({to_number(value).sql})"
    return f"m_number({value.sql})"


def to_number(value: Value) -> Value:
    """The value as arithmetic takes it: text becomes a float, a date an integer."""
    kind = value.type.kind
    if kind in (Kind.TEXT, Kind.JSON, Kind.BINARY):
        return Value(to_double(value), DOUBLE)
    if kind in TEMPORAL:
        if value.type.scale:
            return Value(f"m_date_decimal({value.sql})", decimal(value.type.scale))
        return Value(f"m_date_integer({value.sql})", INT)
    return value


def to_decimal(value: Value) -> str:
    """SQL of the value as the digits of a decimal."""
    if value.type.kind is Kind.INT:
        return f"CAST({value.sql} AS TEXT)"
    if value.type.kind in (Kind.DECIMAL, Kind.NULL):
        return value.sql
    return f"m_decimal({to_number(value).sql})"


def to_integer(value: Value) -> str:
    """SQL of the value as an integer, rounded; of text what it begins with."""
    if value.type.kind in (Kind.INT, Kind.NULL):
        return value.sql
    if value.type.kind in TEMPORAL:
        return f"m_date_integer({value.sql})"
    if value.type.kind is Kind.TEXT:
        return f"m_text_integer({value.sql})"
    return f"m_integer({value.sql})"


def to_bool(value: Value) -> str:
    """SQL of the value as a condition."""
    kind = value.type.kind
    if kind in (Kind.INT, Kind.NULL):
        return value.sql
    if kind in APPROXIMATE:
        return f"({value.sql} <> 0)"
    return f"({to_double(value)} <> 0)"


def to_datetime(value: Value) -> str:
    """SQL of the value as text `YYYY-MM-DD HH:MM:SS[.ffffff]`."""
    if value.type.kind is Kind.DATETIME:
        return value.sql
    if value.type.kind is Kind.TIME:
        return f"m_time_datetime({value.sql}, m_now())"
    return f"m_datetime({value.sql})"


def convert(value: Value, target: Type) -> str:
    """SQL of the value as `target`, where `merge` has found that."""
    kind, same = target.kind, value.type.kind is target.kind
    if value.type.kind is Kind.NULL or kind is Kind.NULL:
        return value.sql
    if kind is Kind.DECIMAL:
        return f"m_round({to_decimal(value)}, {target.scale})"
    if same:
        return value.sql
    if kind in APPROXIMATE:
        return to_double(value)
    if kind in TEMPORAL:
        return to_datetime(value)
    if kind is Kind.BINARY:
        return f"m_encode({to_text(value)})"
    return to_text(value)


def collated(value: Value) -> str:
    """SQL of the value with the collation that its type is compared and ordered by."""
    kind = value.type.kind
    if kind is Kind.DECIMAL:
        return f"({value.sql} COLLATE m_decimal)"
    if kind is Kind.TEXT:
        return f"({value.sql} COLLATE {'binary' if value.type.exact else 'm_text'})"
    if kind is Kind.TIME:
        return f"(m_time_seconds({value.sql}))"
    return value.sql
