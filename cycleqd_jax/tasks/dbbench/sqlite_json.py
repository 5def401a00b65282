"""The few of MySQL's JSON functions that questions about tables may need."""

import json
import re
from decimal import Decimal

from cycleqd_jax.tasks.dbbench.sqlite_errors import MySQLError
from cycleqd_jax.tasks.dbbench.sqlite_types import Kind

_STEP = re.compile(r"\.(\w+)|\.\"([^\"]+)\"|\[(\d+)\]")


def _cell(value, kind: int):
    if value is None:
        return None
    if kind == Kind.JSON:
        return json.loads(value)
    if kind == Kind.DECIMAL:
        return float(Decimal(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value


def shown(value) -> str:
    """JSON as MySQL writes it."""
    return json.dumps(value, ensure_ascii=False)


def array(*pairs) -> str:
    """JSON_ARRAY of (value, kind) pairs."""
    return shown([_cell(*pairs[i : i + 2]) for i in range(0, len(pairs), 2)])


def object_of(*pairs) -> str:
    """JSON_OBJECT of (key, kind, value, kind) groups."""
    if len(pairs) % 4:
        raise MySQLError(
            1582,
            "Incorrect parameter count in the call to native function 'json_object'",
        )
    return shown(
        {str(pairs[i]): _cell(*pairs[i + 2 : i + 4]) for i in range(0, len(pairs), 4)}
    )


def _loaded(text: str):
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise MySQLError(
            3141, "Invalid JSON text in argument 1 to function json_extract: "
            '"Invalid value." at position 0.'
        ) from None  # fmt: skip


def extract(text, path, *more) -> str | None:
    """JSON_EXTRACT of one path."""
    if text is None or path is None:
        return None
    value = _loaded(text)
    for match in _STEP.finditer(path):
        name = match.group(1) or match.group(2)
        try:
            value = value[name] if name else value[int(match.group(3))]
        except (KeyError, IndexError, TypeError):
            return None
    return shown(value)


def unquote(text) -> str | None:
    """JSON_UNQUOTE."""
    if text is None or not text.startswith('"'):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def valid(text) -> int | None:
    """JSON_VALID."""
    if text is None:
        return None
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return 0
    return 1


def length(text, path=None) -> int | None:
    """JSON_LENGTH."""
    if path is not None:
        text = extract(text, path)
    if text is None:
        return None
    value = _loaded(text)
    return len(value) if isinstance(value, (list, dict)) else 1


def keys(text) -> str | None:
    """JSON_KEYS."""
    value = None if text is None else _loaded(text)
    return shown(list(value)) if isinstance(value, dict) else None


def type_of(text) -> str | None:
    """JSON_TYPE."""
    if text is None:
        return None
    names = {dict: "OBJECT", list: "ARRAY", str: "STRING", bool: "BOOLEAN"}
    names |= {int: "INTEGER", float: "DOUBLE", type(None): "NULL"}
    return names[type(_loaded(text))]


FUNCTIONS = {
    "json_array": array,
    "json_object": object_of,
    "json_extract": extract,
    "json_unquote": unquote,
    "json_arrows": lambda text, path: unquote(extract(text, path)),
    "json_valid": valid,
    "json_length": length,
    "json_keys": keys,
    "json_type": type_of,
    "json": lambda text: None if text is None else shown(_loaded(text)),
}
