"""Calls whose type or form depends on their arguments."""

from cycleqd_jax.tasks.dbbench import sqlite_casts
from cycleqd_jax.tasks.dbbench import sqlite_operators as operators
from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour, MySQLError, unsupported
from cycleqd_jax.tasks.dbbench.sqlite_types import (
    APPROXIMATE,
    DOUBLE,
    INT,
    JSON,
    NULL_VALUE,
    NUMERIC,
    TEXT,
    TEXTUAL,
    Kind,
    Type,
    Value,
    convert,
    decimal,
    merge,
    to_bool,
    to_decimal,
    to_double,
    to_integer,
    to_number,
    to_text,
)

_MANY = 10_000


def _if(arguments, scope):
    condition, yes, no = arguments
    kind = merge([yes.type, no.type])
    chosen = f"THEN {convert(yes, kind)} ELSE {convert(no, kind)}"
    return Value(f"(CASE WHEN {to_bool(condition)} {chosen} END)", kind)


def _coalesce(arguments, scope):
    kind = merge([value.type for value in arguments])
    parts = [convert(value, kind) for value in arguments]
    return Value(f"COALESCE({', '.join([*parts, 'NULL'])})", kind)


def _nullif(arguments, scope):
    first, second = arguments
    equal = operators.compare("=", first, second).sql
    return Value(f"(CASE WHEN {equal} THEN NULL ELSE {first.sql} END)", first.type)


def _isnull(arguments, scope):
    return Value(f"({arguments[0].sql} IS NULL)", INT)


def _extreme(name, operator):
    def compiled(arguments, scope):
        kind = merge([value.type for value in arguments])
        # MariaDB compares texts with any numbers as numbers, MySQL with floats only.
        numeric = NUMERIC if scope.flavour is Flavour.MARIADB else APPROXIMATE
        if kind.kind is Kind.TEXT and any(v.type.kind in numeric for v in arguments):
            kind = DOUBLE
        best = Value(convert(arguments[0], kind), kind)
        for value in arguments[1:]:
            other = Value(convert(value, kind), kind)
            wins = operators.compare(operator, other, best).sql
            sql = (
                f"(CASE WHEN {other.sql} IS NULL OR {best.sql} IS NULL THEN NULL "
                f"WHEN {wins} THEN {other.sql} ELSE {best.sql} END)"
            )
            best = Value(sql, kind)
        return best

    return compiled


def _abs(arguments, scope):
    value = to_number(arguments[0])
    if value.type.kind is Kind.DECIMAL:
        return Value(f"m_abs({value.sql})", value.type)
    return Value(f"ABS({value.sql})", value.type)


def _sign(arguments, scope):
    return Value(f"m_sign({to_double(arguments[0])})", INT)


def _whole(name):
    def compiled(arguments, scope):
        value = to_number(arguments[0])
        if value.type.kind is Kind.INT:
            return value
        if value.type.kind is Kind.DECIMAL:
            return Value(f"m_{name}_decimal({value.sql})", INT)
        return Value(f"m_{name}({value.sql})", DOUBLE)

    return compiled


def _rounded(name):
    def compiled(arguments, scope):
        value = to_number(arguments[0])
        digits = arguments[1] if len(arguments) > 1 else Value("0", INT, 0)
        count = to_integer(to_number(digits))
        if value.type.kind is Kind.INT:
            return Value(f"m_{name}_integer({value.sql}, {count})", INT)
        if value.type.kind is Kind.DECIMAL:
            scale = value.type.scale
            if isinstance(digits.constant, int):
                # A ROUND with more digits than the value has shows them.
                scale = max(digits.constant, 0)
                if not value.sql.startswith("m_divide") and value.type.scale < scale:
                    scale = value.type.scale
            return Value(f"m_{name}({value.sql}, {count})", decimal(scale))
        return Value(f"m_{name}_double({value.sql}, {count})", DOUBLE)

    return compiled


def _mod(arguments, scope):
    return operators.arithmetic("%", *arguments)


def _field(arguments, scope):
    first, *rest = arguments
    kinds = {value.type.kind for value in arguments}
    if not (kinds <= TEXTUAL or kinds <= NUMERIC):
        first, *rest = (Value(to_double(v), DOUBLE) for v in arguments)
    whens = " ".join(
        f"WHEN {operators.compare('=', first, value).sql} THEN {number}"
        for number, value in enumerate(rest, 1)
    )
    return Value(f"(CASE {whens} ELSE 0 END)", INT)


def _interval(arguments, scope):
    first, *rest = (Value(to_double(v), DOUBLE) for v in arguments)
    if not rest:
        raise MySQLError(1064, "You have an error in your SQL syntax near 'INTERVAL'")
    whens = " ".join(
        f"WHEN {first.sql} < {value.sql} THEN {number}"
        for number, value in enumerate(rest)
    )
    sql = f"(CASE WHEN {first.sql} IS NULL THEN -1 {whens} ELSE {len(rest)} END)"
    return Value(sql, INT)


def _strcmp(arguments, scope):
    less = operators.compare("<", *(Value(to_text(v), TEXT) for v in arguments)).sql
    equal = operators.compare("=", *(Value(to_text(v), TEXT) for v in arguments)).sql
    return Value(f"(CASE WHEN {equal} THEN 0 WHEN {less} THEN -1 ELSE 1 END)", INT)


def _format(arguments, scope):
    digits = f"m_format({to_decimal(arguments[0])}, {to_integer(arguments[1])})"
    return Value(digits, TEXT)


# ---- the session


def _constant(text):
    return lambda arguments, scope: Value(f"'{text}'", TEXT)


def _database(arguments, scope):
    return Value("'" + scope.database.replace("'", "''") + "'", TEXT)


def _version(arguments, scope):
    old = scope.flavour is Flavour.MARIADB
    return Value("'10.11.14-MariaDB'" if old else "'8.0.36'", TEXT)


_VARIABLES = {
    "version": None,
    "sql_mode": None,
    "autocommit": 0,
    "max_allowed_packet": 67108864,
    "group_concat_max_len": 1024,
    "lower_case_table_names": 0,
    "character_set_database": "utf8mb4",
}


def _system_variable(arguments, scope):
    name = arguments[0].constant.rpartition(".")[2]
    if name == "version":
        return _version(arguments, scope)
    if name == "sql_mode":
        modes = "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION"
        if scope.flavour is Flavour.MYSQL8:
            modes = f"ONLY_FULL_GROUP_BY,{modes}"
        return Value(f"'{modes}'", TEXT)
    if name not in _VARIABLES:
        raise MySQLError(1193, f"Unknown system variable '{name}'")
    value = _VARIABLES[name]
    return Value(repr(value), INT if isinstance(value, int) else TEXT)


def _variable(arguments, scope):
    return Value(f"m_variable({arguments[0].sql})", TEXT)


def _assign(arguments, scope):
    raise unsupported("assigning to variables")


def _json_pair(name):
    def compiled(arguments, scope):
        pairs = ", ".join(f"{v.sql}, {int(v.type.kind)}" for v in arguments)
        return Value(f"m_{name}({pairs})", JSON)

    return compiled


SPECIAL = {
    **sqlite_casts.SPECIAL,
    "IF": (3, 3, _if),
    "IFNULL": (2, 2, _coalesce),
    "NVL": (2, 2, _coalesce),
    "COALESCE": (1, _MANY, _coalesce),
    "NULLIF": (2, 2, _nullif),
    "ISNULL": (1, 1, _isnull),
    "GREATEST": (2, _MANY, _extreme("greatest", ">")),
    "LEAST": (2, _MANY, _extreme("least", "<")),
    "ABS": (1, 1, _abs),
    "SIGN": (1, 1, _sign),
    "CEIL": (1, 1, _whole("ceil")),
    "CEILING": (1, 1, _whole("ceil")),
    "FLOOR": (1, 1, _whole("floor")),
    "ROUND": (1, 2, _rounded("round")),
    "TRUNCATE": (2, 2, _rounded("truncate")),
    "MOD": (2, 2, _mod),
    "FIELD": (2, _MANY, _field),
    "INTERVAL": (2, _MANY, _interval),
    "STRCMP": (2, 2, _strcmp),
    "FORMAT": (2, 3, _format),
    "DATABASE": (0, 0, _database),
    "SCHEMA": (0, 0, _database),
    "VERSION": (0, 0, _version),
    "SYSTEM_VARIABLE": (1, 1, _system_variable),
    "VARIABLE": (1, 1, _variable),
    "ASSIGN": (2, 2, _assign),
    "PI": (0, 0, lambda arguments, scope: Value("m_pi()", Type(Kind.DOUBLE, 6))),
    "JSON_OBJECT": (0, _MANY, _json_pair("json_object")),
    "JSON_ARRAY": (0, _MANY, _json_pair("json_array")),
    "CHARSET": (1, 1, _constant("utf8mb4")),
    "BENCHMARK": (2, 2, lambda arguments, scope: Value("0", INT, 0)),
    "CONNECTION_ID": (0, 0, lambda arguments, scope: Value("8", INT, 8)),
    "LAST_INSERT_ID": (0, 1, lambda arguments, scope: Value("0", INT, 0)),
    "ROW_COUNT": (0, 0, lambda arguments, scope: Value("-1", INT)),
    "FOUND_ROWS": (0, 0, lambda arguments, scope: Value("0", INT, 0)),
    "NAME_CONST": (2, 2, lambda arguments, scope: arguments[1]),
    **dict.fromkeys(
        ("USER", "CURRENT_USER", "SESSION_USER", "SYSTEM_USER"),
        (0, 0, _constant("dbbench@localhost")),
    ),
    "DEFAULT_VALUE": (0, 0, lambda arguments, scope: NULL_VALUE),
}
