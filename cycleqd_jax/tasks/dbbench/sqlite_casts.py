"""Casts, and calls that give dates, whose type depends on their arguments."""

from cycleqd_jax.tasks.dbbench.sqlite_errors import MySQLError
from cycleqd_jax.tasks.dbbench.sqlite_types import (
    BINARY,
    DATE,
    DATETIME,
    DOUBLE,
    FLOAT,
    INT,
    JSON,
    NUMERIC,
    TEMPORAL,
    TEXT,
    TEXTUAL,
    TIME,
    Kind,
    Type,
    Value,
    decimal,
    to_datetime,
    to_decimal,
    to_double,
    to_integer,
    to_number,
    to_text,
)

_DAYS = frozenset(("DAY", "WEEK", "MONTH", "QUARTER", "YEAR", "YEAR_MONTH"))


def _cast(arguments, scope):
    value, target, *sizes = arguments
    numbers = [size.constant for size in sizes]
    kind = value.type.kind
    name = target.constant
    if kind is Kind.NULL:
        return Value("NULL", _cast_types(numbers)[name])
    if name in ("SIGNED", "UNSIGNED"):
        digits = to_integer(value if kind in TEXTUAL else to_number(value))
        if kind in (Kind.BINARY, Kind.JSON):
            digits = f"m_text_integer({to_text(value)})"
        if name == "UNSIGNED":
            digits = f"m_unsigned({digits})"
        return Value(digits, INT)
    if name == "CHAR":
        text = to_text(value)
        text = f"m_left({text}, {numbers[0]})" if numbers else text
        return Value(text, TEXT)
    if name == "DECIMAL":
        precision, scale = [*numbers, *(10, 0)[len(numbers) :]][:2]
        digits = f"m_text_decimal({to_text(value)})"
        if kind in NUMERIC:
            digits = to_decimal(value)
        if precision > 65 or scale > 30 or scale > precision:
            raise MySQLError(
                1426, f"Too-big precision {precision} specified for 'CAST'"
            )
        return Value(f"m_fit({digits}, {precision}, {scale})", decimal(scale))
    if name in ("FLOAT", "DOUBLE"):
        number = to_double(value)
        if name == "FLOAT" and (not numbers or numbers[0] < 25):
            return Value(f"m_float({number})", FLOAT)
        return Value(number, DOUBLE)
    if name == "BINARY":
        return Value(f"m_encode({to_text(value)})", BINARY)
    if name == "JSON":
        return Value(f"m_json({to_text(value)})", JSON)
    if name == "YEAR":
        return Value(f"m_cast_year({to_integer(value)})", INT)
    scale = numbers[0] if numbers else 0
    if name == "DATE":
        return Value(f"m_date({to_datetime(value)})", DATE)
    if name == "DATETIME":
        sql = f"m_seconds_scale({to_datetime(value)}, {scale})"
        return Value(sql, Type(Kind.DATETIME, scale))
    text = value.sql if kind in TEMPORAL else to_text(value)
    return Value(f"m_seconds_scale(m_time({text}), {scale})", Type(Kind.TIME, scale))


def _cast_types(numbers):
    scale = numbers[1] if len(numbers) > 1 else 0
    same = {"SIGNED": INT, "UNSIGNED": INT, "CHAR": TEXT, "DECIMAL": decimal(scale)}
    same |= {"FLOAT": FLOAT, "DOUBLE": DOUBLE, "BINARY": BINARY, "JSON": JSON}
    return same | {"YEAR": INT, "DATE": DATE, "DATETIME": DATETIME, "TIME": TIME}


def _binary(arguments, scope):
    value = arguments[0]
    if value.type.kind is Kind.BINARY:
        return value
    return Value(f"m_encode({to_text(value)})", BINARY)


# ---- dates


def _shifted(sign):
    def compiled(arguments, scope):
        value, amount, unit = arguments
        unit = unit.constant
        kind = value.type.kind
        if kind is Kind.DATE and unit not in _DAYS:
            result = DATETIME
        elif kind in (Kind.DATE, Kind.DATETIME):
            result = value.type
        elif kind is Kind.TIME:
            result = DATETIME if unit in _DAYS else TIME
        else:
            result = TEXT
        plain = value.sql if kind is Kind.TIME else to_text(value)
        if kind is Kind.TIME and result is DATETIME:
            plain = to_datetime(value)
        number = to_text(amount)
        sql = f"m_shift({plain}, {number}, '{unit}', {sign}1)"
        if kind is Kind.DATE and result is DATE:
            sql = f"m_date({sql})"
        return Value(sql, result)

    return compiled


def _timestampadd(arguments, scope):
    unit, amount, value = arguments
    return _shifted("+")([value, amount, unit], scope)


def _str_to_date(arguments, scope):
    value, pattern = arguments
    form = pattern.constant
    sql = f"m_str_to_date({to_text(value)}, {to_text(pattern)}"
    if not isinstance(form, str):
        return Value(f"{sql}, 'datetime')", Type(Kind.DATETIME, 6))
    letters = {form[i + 1] for i in range(len(form) - 1) if form[i] == "%"}
    has_time = bool(letters & set("fHIhiklpprSsT"))
    has_date = bool(letters & set("abcDdejMmUuVvWwXxYy"))
    scale = 6 if "f" in letters else 0
    if has_time and not has_date:
        return Value(f"{sql}, 'time')", Type(Kind.TIME, scale))
    if has_time:
        return Value(f"{sql}, 'datetime')", Type(Kind.DATETIME, scale))
    return Value(f"{sql}, 'date')", DATE)


def _now(arguments, scope):
    return Value("m_now()", DATETIME)


def _timestamp(arguments, scope):
    sql = to_datetime(arguments[0])
    if len(arguments) == 2:
        sql = f"m_add_time({sql}, {to_text(arguments[1])}, 1)"
    return Value(sql, DATETIME)


def _add_time(sign):
    def compiled(arguments, scope):
        first, second = arguments
        kind = first.type if first.type.kind in TEMPORAL else TEXT
        kind = DATETIME if kind is DATE else kind
        sql = f"m_add_time({to_text(first)}, {to_text(second)}, {sign})"
        return Value(sql, kind)

    return compiled


def _extract(arguments, scope):
    unit, value = arguments
    text = value.sql if value.type.kind in TEMPORAL else to_text(value)
    return Value(f"m_extract('{unit.constant}', {text})", INT)


def _literal(arguments, scope):
    name, text = (value.constant for value in arguments)
    value = arguments[1]
    if name == "DATE":
        return Value(f"m_date({to_datetime(value)})", DATE)
    if name == "TIME":
        return Value(f"m_time({value.sql})", TIME)
    del text
    return Value(to_datetime(value), DATETIME)


def _unix_timestamp(arguments, scope):
    if not arguments:
        return Value("m_unix_timestamp(m_now())", INT)
    value = arguments[0]
    if value.type.kind in TEXTUAL:
        return Value(f"m_unix_timestamp_text({to_datetime(value)})", decimal(6))
    return Value(f"m_unix_timestamp({to_datetime(value)})", INT)


def _from_unixtime(arguments, scope):
    sql = f"m_from_unixtime({to_double(arguments[0])})"
    if len(arguments) == 2:
        return Value(f"m_date_format({sql}, {to_text(arguments[1])})", TEXT)
    return Value(sql, DATETIME)


SPECIAL = {
    "CAST": (2, 4, _cast),
    "BINARY": (1, 1, _binary),
    "DATE_ADD": (3, 3, _shifted("+")),
    "ADDDATE": (3, 3, _shifted("+")),
    "DATE_SUB": (3, 3, _shifted("-")),
    "SUBDATE": (3, 3, _shifted("-")),
    "TIMESTAMPADD": (3, 3, _timestampadd),
    "STR_TO_DATE": (2, 2, _str_to_date),
    "TIMESTAMP": (1, 2, _timestamp),
    "ADDTIME": (2, 2, _add_time(1)),
    "SUBTIME": (2, 2, _add_time(-1)),
    "EXTRACT": (2, 2, _extract),
    "LITERAL": (2, 2, _literal),
    "UNIX_TIMESTAMP": (0, 1, _unix_timestamp),
    "FROM_UNIXTIME": (1, 2, _from_unixtime),
    **dict.fromkeys(
        ("NOW", "CURRENT_TIMESTAMP", "LOCALTIME", "LOCALTIMESTAMP", "SYSDATE"),
        (0, 1, _now),
    ),
    "UTC_TIMESTAMP": (0, 1, _now),
    **dict.fromkeys(
        ("CURDATE", "CURRENT_DATE", "UTC_DATE"),
        (0, 0, lambda arguments, scope: Value("m_date(m_now())", DATE)),
    ),
    **dict.fromkeys(
        ("CURTIME", "CURRENT_TIME", "UTC_TIME"),
        (0, 1, lambda arguments, scope: Value("m_time(m_now())", TIME)),
    ),
}
