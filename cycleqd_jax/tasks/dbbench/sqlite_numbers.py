"""MySQL's numbers: what text is worth, decimals, rounding, how they are written.

Decimals come and go as text, since SQLite has none.
"""

import decimal
import math
import re
import struct
from decimal import Decimal

from cycleqd_jax.tasks.dbbench.sqlite_errors import MySQLError

_CONTEXT = decimal.Context(
    prec=120, rounding=decimal.ROUND_HALF_UP, Emin=-400, Emax=400, traps=[]
)
_LEADING = re.compile(r"[\s]*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
_WHOLE = re.compile(_LEADING.pattern + r"\s*")
_WHOLE_INTEGER = re.compile(r"\s*[-+]?\d+\s*")
_INTEGER = re.compile(r"\s*([-+]?\d+)")
_DIVISION_DIGITS = 4
_WORD = 9  # digits that MySQL keeps together
_LARGEST, _SMALLEST = 2**63 - 1, -(2**63)
_MOST_DIGITS = 65


def leading_number(text: str) -> tuple[str | None, str]:
    """The number that a text begins with (None for none), and the rest."""
    match = _LEADING.match(text)
    if match is None:
        return None, text
    return match.group(1), text[match.end() :]


def number(value) -> float | None:
    """A value in arithmetic: of text the number it begins with, else 0."""
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, int):
        return float(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    match = _LEADING.match(value)
    return float(match.group(1)) if match else 0.0


def is_number(text: str) -> bool:
    """Whether a text is a number and spaces."""
    return _WHOLE.fullmatch(text) is not None


def is_integer(text: str) -> bool:
    """Whether a text is an integer of 64 bits and spaces."""
    if _WHOLE_INTEGER.fullmatch(text) is None:
        return False
    return len(text.strip()) < 25 and _SMALLEST <= int(text) <= 2 * _LARGEST + 1


def plain(value: Decimal) -> str:
    """A decimal's digits without an exponent, and without a negative zero."""
    if not value.is_finite():
        return "0"
    text = format(value, "f")
    return text[1:] if value.is_zero() and text.startswith("-") else text


def _exact(value) -> Decimal:
    if isinstance(value, float):
        value = repr(value)
    found = _CONTEXT.create_decimal(str(value))
    return found if found.is_finite() else Decimal(0)


def to_decimal(value) -> str | None:
    """A number as digits."""
    return None if value is None else plain(_exact(value))


def text_decimal(value) -> str | None:
    """The number that a text begins with, as digits."""
    if value is None:
        return None
    found, _ = leading_number(str(value))
    return plain(_exact(found or "0"))


def rounded(value, scale: int) -> str | None:
    """A decimal with exactly `scale` digits after the point, half away from zero."""
    if value is None:
        return None
    exact = _exact(value)
    step = Decimal(1).scaleb(-scale, _CONTEXT)
    return plain(exact.quantize(step, context=_CONTEXT))


def fit(value, precision: int, scale: int) -> str | None:
    """A decimal as DECIMAL(precision, scale), cut to the largest that it holds."""
    if value is None:
        return None
    text = rounded(value, scale)
    limit = Decimal(10) ** (precision - scale) - Decimal(1).scaleb(-scale)
    exact = Decimal(text)
    if abs(exact) > limit:
        return plain(limit.copy_sign(exact))
    return text


def _decimals(operation):
    def compiled(a, b):
        if a is None or b is None:
            return None
        return plain(operation(_exact(a), _exact(b)))

    return compiled


add = _decimals(lambda a, b: _CONTEXT.add(a, b))
subtract = _decimals(lambda a, b: _CONTEXT.subtract(a, b))
multiply = _decimals(lambda a, b: _CONTEXT.multiply(a, b))


def _digits(value: Decimal) -> int:
    return max(-value.as_tuple().exponent, 0)


def _words(digits: int) -> int:
    return -(-digits // _WORD) * _WORD


def divide(a, b) -> str | None:
    """A / b with as many digits as MySQL keeps: cut, in words of nine."""
    if a is None or b is None:
        return None
    x, y = _exact(a), _exact(b)
    if y.is_zero():
        return None
    first, second = _words(_digits(x)), _words(_digits(y))
    more = _DIVISION_DIGITS - (first - _digits(x) + second - _digits(y))
    kept = _words(first + second + max(more, 0))
    step = Decimal(1).scaleb(-kept, _CONTEXT)
    quotient = _CONTEXT.divide(x, y)
    return plain(quotient.quantize(step, decimal.ROUND_DOWN, _CONTEXT))


def modulo(a, b) -> str | None:
    """The rest of a / b, with the sign of a."""
    if a is None or b is None or _exact(b).is_zero():
        return None
    return plain(_CONTEXT.remainder(_exact(a), _exact(b)))


def integer_divide(a, b) -> int | None:
    """A DIV b."""
    if a is None or b is None or _exact(b).is_zero():
        return None
    return clamp(int(_CONTEXT.divide_int(_exact(a), _exact(b))))


def remainder(a: float | None, b: float | None) -> float | None:
    """The rest of a / b of floats."""
    if a is None or b is None or b == 0:
        return None
    return math.fmod(a, b)


def _integers(name: str, operation):
    def compiled(a, b):
        if a is None or b is None:
            return None
        found = operation(int(a), int(b))
        if not _SMALLEST <= found <= _LARGEST:
            raise MySQLError(
                1690, f"BIGINT value is out of range in '({a} {name} {b})'"
            )
        return found

    return compiled


integer_add = _integers("+", lambda a, b: a + b)
integer_subtract = _integers("-", lambda a, b: a - b)
integer_multiply = _integers("*", lambda a, b: a * b)


def clamp(value: int) -> int:
    """An integer cut to 64 bits."""
    return min(max(value, _SMALLEST), _LARGEST)


def integer(value) -> int | None:
    """A number as an integer: floats to even, decimals half away from zero."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return clamp(round(value)) if math.isfinite(value) else 0
    return clamp(int(_exact(value).to_integral_value(decimal.ROUND_HALF_UP)))


def text_integer(value) -> int | None:
    """The integer that a text begins with, else 0."""
    if value is None or isinstance(value, int):
        return value
    match = _INTEGER.match(str(value))
    return clamp(int(match.group(1)[:40])) if match else 0


def unsigned(value):
    """An integer as an unsigned one; beyond 63 bits as text."""
    if value is None or int(value) >= 0:
        return value
    return str(int(value) + 2**64)


def bits(operator: str, a, b):
    """Bit operations on unsigned 64-bit integers."""
    if a is None or b is None:
        return None
    mask = 2**64 - 1
    a, b = int(a) & mask, int(b) & mask
    if operator in ("<<", ">>") and b >= 64:
        return 0
    found = {
        "&": lambda: a & b,
        "|": lambda: a | b,
        "^": lambda: a ^ b,
        "<<": lambda: (a << b) & mask,
        ">>": lambda: a >> b,
    }[operator]()
    return found if found <= _LARGEST else str(found)


def round_decimal(value, digits) -> str | None:
    """ROUND of a decimal."""
    if value is None or digits is None:
        return None
    digits = min(max(int(digits), -_MOST_DIGITS), 30)
    exact = _exact(value)
    if digits >= _digits(exact):
        return plain(exact)
    step = Decimal(1).scaleb(-digits, _CONTEXT)
    found = exact.quantize(step, decimal.ROUND_HALF_UP, _CONTEXT)
    return plain(found) if digits >= 0 else plain(found.quantize(Decimal(1)))


def truncate_decimal(value, digits) -> str | None:
    """TRUNCATE of a decimal."""
    if value is None or digits is None:
        return None
    digits = min(max(int(digits), -_MOST_DIGITS), 30)
    exact = _exact(value)
    if digits >= _digits(exact):
        return plain(exact)
    step = Decimal(1).scaleb(-digits, _CONTEXT)
    found = exact.quantize(step, decimal.ROUND_DOWN, _CONTEXT)
    return plain(found) if digits >= 0 else plain(found.quantize(Decimal(1)))


def _in_integers(operation):
    def compiled(value, digits):
        if value is None or digits is None:
            return None
        found = operation(value, digits)
        return clamp(int(Decimal(found)))

    return compiled


round_integer = _in_integers(round_decimal)
truncate_integer = _in_integers(truncate_decimal)


def round_double(value, digits) -> float | None:
    """ROUND of a float: scaled, rounded to even, scaled back."""
    return _scaled(value, digits, round)


def truncate_double(value, digits) -> float | None:
    """TRUNCATE of a float."""
    return _scaled(value, digits, math.trunc)


def _scaled(value, digits, operation) -> float | None:
    if value is None or digits is None:
        return None
    digits = int(digits)
    if not math.isfinite(value) or abs(digits) > 300:
        return value if digits > 0 else 0.0
    scale = 10.0 ** abs(digits)
    try:
        if digits < 0:
            return float(operation(value / scale)) * scale
        scaled = value * scale
        if not math.isfinite(scaled):
            return value
        return float(operation(scaled)) / scale
    except OverflowError:
        return value


def double_text(value: float | None) -> str | None:
    """A float as MySQL writes it: the shortest digits that read back as it."""
    return None if value is None else _written(repr(float(value)))


def float_text(value: float | None) -> str | None:
    """A float of single precision as MySQL writes it."""
    if value is None:
        return None
    for digits in range(6, 10):
        text = f"{value:.{digits}g}"
        if single(float(text)) == value:
            break
    return _written(text)


def single(value: float | None) -> float | None:
    """A float rounded to single precision."""
    if value is None:
        return None
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.copysign(3.4028234663852886e38, value)


def _written(text: str) -> str:
    if "n" in text:  # inf, nan
        return "0"
    sign, digits, exponent = Decimal(text).normalize().as_tuple()
    point = len(digits) + exponent
    if digits == (0,):
        return "0"
    mark = "-" if sign else ""
    shown = "".join(map(str, digits))
    if -15 < point <= 15:
        return mark + plain(Decimal(text).normalize().copy_abs())
    rest = f".{shown[1:]}" if len(shown) > 1 else ""
    return f"{mark}{shown[0]}{rest}e{point - 1}"


def ceiling(value) -> int | None:
    """CEIL of a decimal."""
    return None if value is None else clamp(math.ceil(_exact(value)))


def floor(value) -> int | None:
    """FLOOR of a decimal."""
    return None if value is None else clamp(math.floor(_exact(value)))


def grouped(value, digits) -> str | None:
    """FORMAT: with commas between thousands."""
    if value is None or digits is None:
        return None
    return f"{Decimal(rounded(value, min(max(int(digits), 0), 30))):,f}"
