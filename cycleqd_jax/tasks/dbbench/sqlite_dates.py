"""MySQL's dates and times.

Values are text: `YYYY-MM-DD`, `YYYY-MM-DD HH:MM:SS[.ffffff]`, `[-]HH:MM:SS[.ffffff]`.
What is no date is NULL.
"""

import calendar
import datetime
import re
from decimal import Decimal

from cycleqd_jax.tasks.dbbench.sqlite_numbers import integer

_DATE = re.compile(
    r"\s*(\d{1,4})[^\w\s](\d{1,2})[^\w\s](\d{1,2})"
    r"(?:[T\s]+(\d{1,2})(?:[^\w\s](\d{1,2})(?:[^\w\s](\d{1,2})(?:\.(\d*))?)?)?)?"
)
_DIGITS = re.compile(r"\s*(\d+)(?:\.(\d*))?\s*")
_TIME = re.compile(r"\s*(-?)(?:(\d+)\s+)?(\d+):(\d{1,2})(?::(\d{1,2})(?:\.(\d*))?)?")
_CLOCK = re.compile(r"\s*-?\d+:")
_DATE_TIME_CHARACTERS = 12  # a shorter text is not taken for a date where a time is due
_TIME_DIGITS = re.compile(r"\s*(-?)(\d+)(?:\.(\d*))?")
_DAY = datetime.timedelta(days=1)
MONTHS = """January February March April May June July August September October November
December""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_MOST_S = 838 * 3600 + 59 * 60 + 59


def parse_datetime(text) -> datetime.datetime | None:
    """The date that a text or number is."""
    if text is None:
        return None
    if isinstance(text, (int, float)):
        text = str(int(text))
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    match = _DATE.match(text)
    if match:
        *parts, fraction = match.groups()
        numbers = [int(part or 0) for part in parts]
        if len(parts[0]) <= 2:
            numbers[0] = _century(numbers[0])
    else:
        match = _DIGITS.fullmatch(text)
        if match is None:
            return None
        digits, fraction = match.groups()
        if len(digits) in (5, 7, 11, 13):
            digits = "0" + digits
        if len(digits) in (6, 12):
            digits = f"{_century(int(digits[:2])):04d}{digits[2:]}"
        if len(digits) not in (8, 14):
            return None
        if len(digits) == 8:
            digits += "000000"
        numbers = [int(digits[:4])]
        numbers += [int(digits[i : i + 2]) for i in range(4, 14, 2)]
    try:
        return datetime.datetime(*numbers, _micro(fraction))
    except ValueError:
        return None


def _century(year: int) -> int:
    return year + (1900 if year >= 70 else 2000)


def _micro(fraction: str | None) -> int:
    return int((fraction or "").ljust(6, "0")[:6] or 0)


def parse_time(text) -> str | None:
    """The time that a text or number is, as MySQL writes it."""
    seconds = _time_microseconds(text)
    return None if seconds is None else show_time(seconds)


def _time_microseconds(text) -> int | None:
    if text is None:
        return None
    if isinstance(text, (int, float)):
        text = str(text if isinstance(text, int) else int(text))
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if is_date(text) and len(text.strip()) >= _DATE_TIME_CHARACTERS:
        moment = parse_datetime(text)
        return None if moment is None else _of_day(moment)
    match = _TIME.match(text)
    if match:
        sign, days, hours, minutes, seconds, fraction = match.groups()
        numbers = int(days or 0) * 24 + int(hours), int(minutes), int(seconds or 0)
    else:
        match = _TIME_DIGITS.match(text)
        if match is None:
            return None
        sign, digits, fraction = match.groups()
        if len(digits) > 7:
            moment = parse_datetime(text)
            return None if moment is None else _of_day(moment)
        value = int(digits)
        numbers = value // 10000, value // 100 % 100, value % 100
    if numbers[1] > 59 or numbers[2] > 59:
        return None
    total = min(numbers[0] * 3600 + numbers[1] * 60 + numbers[2], _MOST_S)
    micro = total * 10**6 + _micro(fraction)
    return -micro if sign else micro


def is_date(text: str) -> bool:
    """Whether a text looks like a date rather than like a time."""
    return _DATE.match(text) is not None and _CLOCK.match(text) is None


def is_whole_datetime(text: str) -> bool:
    """Whether a text is a date, or one with a time, and nothing else."""
    whole = _DATE.fullmatch(text.rstrip()) or _DIGITS.fullmatch(text)
    return whole is not None and parse_datetime(text) is not None


def is_whole_moment(text: str) -> bool:
    """Whether a text is a date or a time with its seconds, and nothing else."""
    clock = _TIME.fullmatch(text.rstrip()) if text.count(":") == 2 else None
    return clock is not None or is_whole_datetime(text)


def is_whole_time(text: str) -> bool:
    """Whether a text is a time, or a date with one, and nothing else."""
    if is_date(text):
        return len(text.strip()) >= _DATE_TIME_CHARACTERS and is_whole_datetime(text)
    whole = _TIME.fullmatch(text.rstrip()) or _TIME_DIGITS.fullmatch(text.rstrip())
    return whole is not None and parse_time(text) is not None


def _of_day(moment: datetime.datetime) -> int:
    seconds = moment.hour * 3600 + moment.minute * 60 + moment.second
    return seconds * 10**6 + moment.microsecond


def show_datetime(moment: datetime.datetime) -> str:
    """As MySQL writes it."""
    text = moment.isoformat(" ")
    return text if len(text) > 10 else f"{text} 00:00:00"


def show_time(micro: int) -> str:
    """A time of so many microseconds as MySQL writes it."""
    sign, micro = ("-", -micro) if micro < 0 else ("", micro)
    seconds, fraction = divmod(micro, 10**6)
    if seconds > _MOST_S:
        seconds, fraction = _MOST_S, 0
    text = f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{text}.{fraction:06d}" if fraction else text


def as_datetime(value) -> str | None:
    """Any value as a date with time."""
    moment = parse_datetime(value)
    return None if moment is None else show_datetime(moment)


def as_date(value) -> str | None:
    """Any value as a date."""
    moment = parse_datetime(value)
    return None if moment is None else show_datetime(moment)[:10]


def time_seconds(value) -> float | None:
    """A time in seconds, by which times are compared."""
    micro = _time_microseconds(value)
    return None if micro is None else micro / 10**6


def time_datetime(value, now: str) -> str | None:
    """A time on the day of `now`."""
    micro = _time_microseconds(value)
    if micro is None:
        return None
    day = datetime.datetime.fromisoformat(now[:10])
    return show_datetime(day + datetime.timedelta(microseconds=micro))


def seconds_scale(value: str | None, scale: int) -> str | None:
    """A time or date with `scale` digits of the seconds' fraction, rounded."""
    if value is None:
        return None
    head, _, fraction = value.partition(".")
    if not fraction and not scale:
        return head
    micro = Decimal(f"0.{fraction or 0}")
    kept = micro.quantize(Decimal(1).scaleb(-scale)) if scale else round(micro)
    if kept >= 1:
        kept -= 1
        if " " in head:
            moment = datetime.datetime.fromisoformat(head) + _DAY / 86400
            head = show_datetime(moment)
        else:
            head = show_time(_time_microseconds(head) + 10**6)
    return head + (f".{str(kept)[2:]}" if scale else "")


def date_integer(value) -> int | None:
    """A date or time as the digits of an integer."""
    if value is None:
        return None
    head = seconds_scale(str(value), 0)
    return int(re.sub(r"[-: ]", "", head)) * (-1 if head.startswith("-") else 1)


def date_decimal(value) -> str | None:
    """A date or time with a fraction as the digits of a decimal."""
    if value is None:
        return None
    head, _, fraction = str(value).partition(".")
    return f"{date_integer(head)}.{fraction.ljust(6, '0')}"


_STEPS = {
    "MICROSECOND": datetime.timedelta(microseconds=1),
    "SECOND": datetime.timedelta(seconds=1),
    "MINUTE": datetime.timedelta(minutes=1),
    "HOUR": datetime.timedelta(hours=1),
    "DAY": _DAY,
    "WEEK": 7 * _DAY,
}
_MONTHS_OF = {"MONTH": 1, "QUARTER": 3, "YEAR": 12}
_UNITS = ("DAY", "HOUR", "MINUTE", "SECOND", "MICROSECOND")


def shift(value, amount, unit: str, sign: int) -> str | None:
    """`value` + `sign` * INTERVAL `amount` `unit`."""
    if value is None or amount is None:
        return None
    months, delta = _interval(str(amount), unit)
    text = str(value)
    if ":" in text and not is_date(text):
        micro = _time_microseconds(text)
        if micro is None or months:
            return None
        return show_time(micro + sign * (delta // datetime.timedelta(microseconds=1)))
    moment = parse_datetime(value)
    if moment is None:
        return None
    try:
        shifted = add_months(moment, sign * months) + sign * delta
    except (OverflowError, ValueError):
        return None
    has_time = ":" in text or unit not in (*_MONTHS_OF, "DAY", "WEEK", "YEAR_MONTH")
    shown = show_datetime(shifted)
    return shown if has_time else shown[:10]


def _interval(amount: str, unit: str) -> tuple[int, datetime.timedelta]:
    if unit in _MONTHS_OF:
        return _whole(amount) * _MONTHS_OF[unit], datetime.timedelta()
    if unit == "SECOND":
        match = re.match(r"\s*-?\d*\.?\d*", amount)
        try:
            return 0, datetime.timedelta(seconds=float(match.group() or 0))
        except (ValueError, OverflowError):
            return 0, datetime.timedelta()
    try:
        if unit in _STEPS:
            return 0, _whole(amount) * _STEPS[unit]
        return _compound(amount, unit)
    except OverflowError:
        return 10**9, datetime.timedelta()


def _whole(amount: str) -> int:
    match = re.match(r"\s*-?\d+(\.\d*)?", amount)
    return integer(match.group().strip()) if match else 0


def _compound(amount: str, unit: str) -> tuple[int, datetime.timedelta]:
    """Units like DAY_HOUR, whose amount has several numbers."""
    sign = -1 if amount.strip().startswith("-") else 1
    numbers = [int(n[:9]) for n in re.findall(r"\d+", amount)]
    first, _, last = unit.partition("_")
    if unit == "YEAR_MONTH":
        years, months = [0, *numbers][-2:] if numbers else (0, 0)
        return sign * (years * 12 + months), datetime.timedelta()
    names = _UNITS[_UNITS.index(first) : _UNITS.index(last) + 1]
    total = datetime.timedelta()
    for name, value in zip(reversed(names), reversed(numbers), strict=False):
        total += value * _STEPS[name]
    return 0, sign * total


def add_months(moment: datetime.datetime, months: int) -> datetime.datetime:
    """So many months later, on the last day where the day does not exist."""
    if not months:
        return moment
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    day = min(moment.day, month_days(year, month + 1))
    return moment.replace(year=year, month=month + 1, day=day)


def month_days(year: int, month: int) -> int:
    """How many days a month has."""
    return calendar.monthrange(year, month)[1]


def timestamp_difference(unit: str, first, second) -> int | None:
    """TIMESTAMPDIFF: whole units from `first` to `second`."""
    a, b = parse_datetime(first), parse_datetime(second)
    if a is None or b is None:
        return None
    if unit in _MONTHS_OF:
        low, high, sign = (a, b, 1) if a <= b else (b, a, -1)
        months = (high.year - low.year) * 12 + high.month - low.month
        rest_high = (high.day, high.time())
        months -= rest_high < (low.day, low.time())
        return sign * (months // _MONTHS_OF[unit])
    delta = b - a
    step = _STEPS[unit]
    whole = abs(delta) // step
    return whole if delta >= datetime.timedelta() else -whole


def add_time(value, amount, sign: int) -> str | None:
    """ADDTIME and SUBTIME."""
    micro = _time_microseconds(amount)
    if value is None or micro is None:
        return None
    if is_date(str(value)):
        moment = parse_datetime(value)
        if moment is None:
            return None
        return show_datetime(moment + sign * datetime.timedelta(microseconds=micro))
    own = _time_microseconds(value)
    return None if own is None else show_time(own + sign * micro)


def time_difference(first, second) -> str | None:
    """TIMEDIFF: both dates, or both times."""
    if first is None or second is None:
        return None
    dates = is_date(str(first)), is_date(str(second))
    if dates == (True, True):
        a, b = parse_datetime(first), parse_datetime(second)
        if a is None or b is None:
            return None
        return show_time((a - b) // datetime.timedelta(microseconds=1))
    if any(dates):
        return None
    a, b = _time_microseconds(first), _time_microseconds(second)
    return None if a is None or b is None else show_time(a - b)
