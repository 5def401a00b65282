"""Parts of dates, and calculations with days."""

import datetime

from cycleqd_jax.tasks.dbbench import sqlite_dates as dates
from cycleqd_jax.tasks.dbbench.sqlite_date_formats import (
    date_format,
    str_to_date,
    time_format,
    week,
)
from cycleqd_jax.tasks.dbbench.sqlite_dates import DAYS, MONTHS, parse_datetime

_EPOCH = datetime.datetime(1970, 1, 1)
_YEAR_ZERO_DAYS = 365  # MySQL's day numbers count from the year 0


def _part(function):
    def compiled(value, *rest):
        moment = parse_datetime(value)
        return None if moment is None or None in rest else function(moment, *rest)

    return compiled


def _time_part(function):
    def compiled(value):
        seconds = dates.time_seconds(value)
        return None if seconds is None else function(abs(seconds), seconds)

    return compiled


def to_days(moment: datetime.datetime) -> int:
    """Days since the year 0."""
    return moment.toordinal() + _YEAR_ZERO_DAYS


def from_days(number) -> str | None:
    """The date of a day's number."""
    if number is None or not 366 <= number <= 3652424:
        return None
    return datetime.date.fromordinal(number - _YEAR_ZERO_DAYS).isoformat()


def make_date(year, day) -> str | None:
    """MAKEDATE."""
    if year is None or day is None or day < 1:
        return None
    try:
        first = datetime.date(year if year > 99 else dates._century(year), 1, 1)
        return (first + datetime.timedelta(days=day - 1)).isoformat()
    except (ValueError, OverflowError):
        return None


def make_time(hour, minute, second) -> str | None:
    """MAKETIME."""
    if None in (hour, minute, second) or not (0 <= minute < 60 and 0 <= second < 60):
        return None
    micro = (abs(hour) * 3600 + minute * 60) * 10**6 + round(second * 10**6)
    return dates.show_time(-micro if hour < 0 else micro)


def date_difference(first, second) -> int | None:
    """DATEDIFF, in days."""
    a, b = parse_datetime(first), parse_datetime(second)
    return None if a is None or b is None else (a.date() - b.date()).days


def unix_timestamp(value) -> int | None:
    """Seconds since 1970."""
    moment = parse_datetime(value)
    return None if moment is None else int((moment - _EPOCH).total_seconds())


def from_unixtime(value) -> str | None:
    """FROM_UNIXTIME, in UTC."""
    if value is None or not 0 <= value < 2**36:
        return None
    return dates.show_datetime(_EPOCH + datetime.timedelta(seconds=int(value)))


def period_difference(first, second) -> int | None:
    """PERIOD_DIFF, in months."""
    if first is None or second is None:
        return None
    return (first // 100 - second // 100) * 12 + first % 100 - second % 100


def period_add(period, months) -> int | None:
    """PERIOD_ADD."""
    if period is None or months is None:
        return None
    total = period // 100 * 12 + period % 100 - 1 + months
    return total // 12 * 100 + total % 12 + 1


def extract(unit: str, value) -> int | None:
    """EXTRACT(unit FROM value)."""
    if value is None:
        return None
    names = unit.split("_")
    if unit == "YEAR_MONTH":
        moment = parse_datetime(value)
        return None if moment is None else moment.year * 100 + moment.month
    if len(names) == 2 or unit in ("HOUR", "MINUTE", "SECOND", "MICROSECOND"):
        return _extract_time(names, value)
    moment = parse_datetime(value)
    if moment is None:
        return None
    if unit == "WEEK":
        return week(moment)[1]
    if unit == "QUARTER":
        return (moment.month + 2) // 3
    return getattr(moment, unit.lower())


def _extract_time(names: list[str], value) -> int | None:
    seconds = dates.time_seconds(value)
    if seconds is None:
        return None
    micro = round(abs(seconds) * 10**6)
    moment = parse_datetime(value)
    parts = {
        "DAY": 0 if moment is None else moment.day,
        "HOUR": micro // 3_600_000_000,
        "MINUTE": micro // 60_000_000 % 60,
        "SECOND": micro // 10**6 % 60,
        "MICROSECOND": micro % 10**6,
    }
    order = list(parts)
    total = 0
    for name in order[order.index(names[0]) : order.index(names[-1]) + 1]:
        total = total * (10**6 if name == "MICROSECOND" else 100) + parts[name]
    return -total if seconds < 0 else total


def _in_range(function):
    """`function`, or NULL where a date would be beyond the year 9999."""

    def compiled(*arguments):
        try:
            return function(*arguments)
        except (ValueError, OverflowError):
            return None

    return compiled


_FUNCTIONS = {
    "year": _part(lambda m: m.year),
    "month": _part(lambda m: m.month),
    "day": _part(lambda m: m.day),
    "dayofweek": _part(lambda m: (m.weekday() + 1) % 7 + 1),
    "weekday": _part(lambda m: m.weekday()),
    "dayofyear": _part(lambda m: m.timetuple().tm_yday),
    "quarter": _part(lambda m: (m.month + 2) // 3),
    "week": _part(lambda m, mode=0: week(m, mode)[1]),
    "weekofyear": _part(lambda m: m.isocalendar()[1]),
    "yearweek": _part(
        lambda m, mode=0: week(m, mode | 2)[0] * 100 + week(m, mode | 2)[1]
    ),
    "to_days": _part(to_days),
    "to_seconds": _part(lambda m: to_days(m) * 86400 + dates._of_day(m) // 10**6),
    "monthname": _part(lambda m: MONTHS[m.month - 1]),
    "dayname": _part(lambda m: DAYS[m.weekday()]),
    "last_day": _part(
        lambda m: m.date().replace(day=dates.month_days(m.year, m.month)).isoformat()
    ),
    "hour": _time_part(lambda size, seconds: int(size // 3600)),
    "minute": _time_part(lambda size, seconds: int(size // 60 % 60)),
    "second": _time_part(lambda size, seconds: int(size % 60)),
    "microsecond": _time_part(lambda size, seconds: round(size * 10**6) % 10**6),
    "time_to_sec": _time_part(lambda size, seconds: int(seconds)),
    "date_format": date_format,
    "time_format": time_format,
    "str_to_date": str_to_date,
    "extract": extract,
    "datediff": date_difference,
    "timestampdiff": dates.timestamp_difference,
    "period_diff": period_difference,
    "period_add": period_add,
    "date": dates.as_date,
    "datetime": dates.as_datetime,
    "time": dates.parse_time,
    "makedate": make_date,
    "maketime": make_time,
    "from_days": from_days,
    "sec_to_time": lambda s: None if s is None else dates.show_time(round(s * 10**6)),
    "timediff": dates.time_difference,
    "convert_tz": lambda value, source, target: value,
    "unix_timestamp": unix_timestamp,
    "unix_timestamp_text": lambda v: (
        None if parse_datetime(v) is None else f"{unix_timestamp(v)}.000000"
    ),
    "from_unixtime": from_unixtime,
    "shift": dates.shift,
    "add_time": dates.add_time,
    "seconds_scale": dates.seconds_scale,
    "date_integer": dates.date_integer,
    "date_decimal": dates.date_decimal,
    "time_seconds": dates.time_seconds,
    "time_datetime": dates.time_datetime,
}
FUNCTIONS = {name: _in_range(function) for name, function in _FUNCTIONS.items()}
