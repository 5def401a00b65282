"""MySQL's functions of text."""

import base64
import binascii
import hashlib
import math
import zlib

from cycleqd_jax.tasks.dbbench.sqlite_numbers import double_text

MAX_CHARACTERS = 2**22  # a longer result is NULL, as beyond max_allowed_packet


def _strict(function):
    """NULL if an argument is, or if the result is too long."""

    def compiled(*arguments):
        if None in arguments:
            return None
        return function(*arguments)

    return compiled


def left(text: str, count: int) -> str:
    """The first characters."""
    return text[: max(count, 0)]


def right(text: str, count: int) -> str:
    """The last characters."""
    return text[-count:] if count > 0 else ""


def substring(text: str, start: int, length: int | None = None) -> str:
    """SUBSTRING, which counts from 1, or from the end below 0."""
    if start == 0 or (length is not None and length <= 0):
        return ""
    first = start - 1 if start > 0 else len(text) + start
    if first < 0:
        return ""
    return text[first:] if length is None else text[first : first + length]


def substring_index(text: str, delimiter: str, count: int) -> str:
    """What is before the `count`-th delimiter, or behind it, counted from the end."""
    if not delimiter or not count:
        return ""
    parts = text.split(delimiter)
    return delimiter.join(parts[:count] if count > 0 else parts[count:])


def pad_left(text: str, length: int, filler: str) -> str | None:
    """LPAD."""
    return _padded(text, length, filler, lambda pad: pad + text)


def pad_right(text: str, length: int, filler: str) -> str | None:
    """RPAD."""
    return _padded(text, length, filler, lambda pad: text + pad)


def _padded(text, length, filler, join) -> str | None:
    if length < 0 or length > MAX_CHARACTERS:
        return None
    if length <= len(text):
        return text[:length]
    if not filler:
        return ""
    missing = length - len(text)
    return join((filler * (missing // len(filler) + 1))[:missing])


def repeat(text: str, count: int) -> str | None:
    """REPEAT."""
    if count * len(text) > MAX_CHARACTERS:
        return None
    return text * max(count, 0)


def replace(text: str, old: str, new: str) -> str | None:
    """REPLACE; case counts."""
    if not old:
        return text
    if len(text) + text.count(old) * len(new) > MAX_CHARACTERS:
        return None
    return text.replace(old, new)


def insert(text: str, position: int, length: int, new: str) -> str:
    """INSERT."""
    if not 1 <= position <= len(text):
        return text
    if length < 0 or position + length > len(text):
        length = len(text) - position + 1
    return text[: position - 1] + new + text[position - 1 + length :]


def trim(side: str, removed: str, text: str) -> str:
    """TRIM; `side` is LEADING, TRAILING or BOTH."""
    if not removed:
        return text
    if side != "TRAILING":
        while text.startswith(removed):
            text = text[len(removed) :]
    if side != "LEADING":
        while text.endswith(removed):
            text = text[: -len(removed)]
    return text


def concat(*texts: str) -> str | None:
    """CONCAT."""
    joined = "".join(texts)
    return joined if len(joined) <= MAX_CHARACTERS else None


def concat_ws(separator, *texts) -> str | None:
    """CONCAT_WS, which leaves NULL out."""
    if separator is None:
        return None
    return separator.join(text for text in texts if text is not None)


def soundex(text: str) -> str:
    """SOUNDEX, which MySQL does not cut to four characters."""
    codes = dict(
        zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "01230120022455012623010202", strict=True)
    )
    letters = [c for c in text.upper() if c.isalpha()]
    if not letters:
        return ""
    found, last = letters[0], codes.get(letters[0], "0")
    for letter in letters[1:]:
        code = codes.get(letter, "0")
        if letter in "HW":
            continue
        if code != "0" and code != last:
            found += code
        last = code
    return found.ljust(4, "0")


def quote(text: str | None) -> str:
    """QUOTE."""
    if text is None:
        return "NULL"
    for character, escaped in (("\\", "\\\\"), ("'", "\\'"), ("\0", "\\0")):
        text = text.replace(character, escaped)
    return f"'{text}'"


def hexadecimal(value) -> str | None:
    """HEX of a number or text."""
    if value is None:
        return None
    if isinstance(value, (int, float)):
        return f"{round(value) & (2**64 - 1):X}"
    data = value if isinstance(value, bytes) else value.encode()
    return data.hex().upper()


def unhex(text: str) -> bytes | None:
    """UNHEX."""
    try:
        return bytes.fromhex(text if len(text) % 2 == 0 else "0" + text)
    except ValueError:
        return None


def character(*codes) -> bytes | None:
    """CHAR: bytes of numbers."""
    data = b""
    for code in codes:
        if code is not None:
            number = int(code) & 0xFFFFFFFF
            data += number.to_bytes(max((number.bit_length() + 7) // 8, 1), "big")
    return data


def conv(text: str, source: int, target: int) -> str | None:
    """CONV of a number between bases."""
    if not (2 <= abs(source) <= 36 and 2 <= abs(target) <= 36):
        return None
    digits, number = "0123456789abcdefghijklmnopqrstuvwxyz", 0
    text = text.strip().lower()
    sign = text.startswith("-")
    for letter in text.lstrip("+-"):
        digit = digits.find(letter)
        if not 0 <= digit < abs(source):
            break
        number = number * abs(source) + digit
    number = (-number if sign else number) & (2**64 - 1)
    negative = target < 0 and number >= 2**63
    number = 2**64 - number if negative else number
    shown = ""
    while number:
        number, digit = divmod(number, abs(target))
        shown = digits[digit] + shown
    return ("-" if negative else "") + (shown.upper() or "0")


def locate(fold):
    """LOCATE: the position of the first text in the second, from 1."""

    def compiled(part, text, start=1):
        if part is None or text is None or start is None:
            return None
        if start < 1 or start > len(text) + 1:
            return 0
        at = "".join(map(fold, text)).find("".join(map(fold, part)), start - 1)
        return at + 1

    return compiled


def find_in_set(key):
    """FIND_IN_SET."""

    def compiled(text, listed):
        if text is None or listed is None:
            return None
        if not listed:
            return 0
        wanted = key(text)
        for number, part in enumerate(listed.split(","), 1):
            if key(part) == wanted:
                return number
        return 0

    return compiled


def elt(number, *texts):
    """ELT."""
    if number is None or not 1 <= number <= len(texts):
        return None
    return texts[number - 1]


def make_set(number, *texts) -> str | None:
    """MAKE_SET."""
    if number is None:
        return None
    chosen = [t for i, t in enumerate(texts) if number >> i & 1 and t is not None]
    return ",".join(chosen)


def export_set(number, on, off, separator=",", count=64) -> str | None:
    """EXPORT_SET."""
    if None in (number, on, off):
        return None
    return separator.join(on if number >> i & 1 else off for i in range(min(count, 64)))


def sha2(text: str, size: int) -> str | None:
    """SHA2."""
    names = {0: "sha256", 224: "sha224", 256: "sha256", 384: "sha384", 512: "sha512"}
    if size not in names:
        return None
    return hashlib.new(names[size], text.encode()).hexdigest()


def order(text: str) -> int:
    """ORD: the bytes of the first character as a number."""
    return int.from_bytes(text[:1].encode(), "big") if text else 0


def from_base64(text: str) -> bytes | None:
    """FROM_BASE64."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error:
        return None


def logarithm(first, second=None) -> float | None:
    """LOG(x), LOG(base, x)."""
    if second is None:
        return _log(math.log, first)
    if first is None or first <= 0 or first == 1 or second <= 0:
        return None
    return math.log(second) / math.log(first)


def _log(function, value) -> float | None:
    return function(value) if value is not None and value > 0 else None


def real(function):
    """A function of floats; NULL where it has no value."""

    def compiled(*arguments):
        if None in arguments:
            return None
        try:
            found = float(function(*arguments))
        except (ValueError, OverflowError, ZeroDivisionError):
            return None
        return found if math.isfinite(found) else None

    return compiled


def hash_of(name: str):
    """A hash function's digits."""
    return lambda text: hashlib.new(
        name, text.encode(), usedforsecurity=False
    ).hexdigest()


NULL_TAKING = {
    "concat_ws": concat_ws,
    "quote": quote,
    "hex": hexadecimal,
    "char": character,
    "char_using": lambda *codes: character(*codes).decode("utf-8", "replace"),
    "elt": elt,
    "make_set": make_set,
    "export_set": export_set,
    "log": logarithm,
    "ln": lambda value: _log(math.log, value),
    "log2": lambda value: _log(math.log2, value),
    "log10": lambda value: _log(math.log10, value),
    "load_file": lambda name: None,
    "decode": lambda data: (
        data.decode("utf-8", "replace") if data is not None else None
    ),
}
STRICT = {
    "upper": str.upper,
    "lower": str.lower,
    "reverse": lambda text: text[::-1],
    "ltrim": lambda text: text.lstrip(" "),
    "rtrim": lambda text: text.rstrip(" "),
    "trim": trim,
    "left": left,
    "right": right,
    "substring": substring,
    "replace": replace,
    "substring_index": substring_index,
    "lpad": pad_left,
    "rpad": pad_right,
    "repeat": repeat,
    "space": lambda count: repeat(" ", count),
    "insert": insert,
    "soundex": soundex,
    "concat": concat,
    "to_base64": lambda text: base64.b64encode(text.encode()).decode(),
    "md5": hash_of("md5"),
    "sha1": hash_of("sha1"),
    "sha2": sha2,
    "conv": conv,
    "bin": lambda number: f"{int(number) & (2**64 - 1):b}",
    "oct": lambda number: f"{int(number) & (2**64 - 1):o}",
    "length": lambda text: len(text.encode()),
    "char_length": len,
    "bit_length": lambda text: 8 * len(text.encode()),
    "ascii": lambda text: text.encode()[0] if text else 0,
    "ord": order,
    "crc32": lambda text: zlib.crc32(text.encode()),
    "bit_count": lambda number: (int(number) & (2**64 - 1)).bit_count(),
    "unhex": unhex,
    "bytes": bytes.fromhex,
    "from_base64": from_base64,
    "encode": str.encode,
    "sign": lambda number: (number > 0) - (number < 0),
    "sleep": lambda seconds: 0,
    "get_lock": lambda name, timeout: 1,
    "release_lock": lambda name: 1,
    "format_bytes": lambda number: f"{double_text(number)} bytes",
}
REAL = {
    "pow": math.pow,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "cot": lambda x: 1 / math.tan(x),
    "asin": math.asin,
    "acos": math.acos,
    "atan": lambda y, x=None: math.atan(y) if x is None else math.atan2(y, x),
    "pi": lambda: math.pi,
    "degrees": math.degrees,
    "radians": math.radians,
    "ceil": math.ceil,
    "floor": math.floor,
}


def functions() -> dict:
    """All of them by name."""
    found = {name: _strict(function) for name, function in STRICT.items()}
    found |= {name: real(function) for name, function in REAL.items()}
    return found | NULL_TAKING
