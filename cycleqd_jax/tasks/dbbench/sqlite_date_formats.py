"""DATE_FORMAT, TIME_FORMAT, STR_TO_DATE, and MySQL's weeks."""

import calendar
import datetime
import re

from cycleqd_jax.tasks.dbbench import sqlite_dates as dates
from cycleqd_jax.tasks.dbbench.sqlite_dates import DAYS, MONTHS, parse_datetime

_EPOCH = datetime.datetime(1970, 1, 1)


def week(moment: datetime.datetime, mode: int = 0) -> tuple[int, int]:
    """(year, week) by MySQL's mode 0 to 7."""
    mode &= 7
    monday_first, with_year, first_weekday = mode & 1, mode & 2, mode & 4
    if monday_first:
        first_weekday ^= 4
    day = moment.date()
    year = day.year
    start = datetime.date(year, 1, 1)
    weekday = _weekday(start, monday_first)
    if day.month == 1 and day.day <= 7 - weekday:
        if not with_year and (
            (first_weekday and weekday != 0) or (not first_weekday and weekday >= 4)
        ):
            return year, 0
        if (first_weekday and weekday != 0) or (not first_weekday and weekday >= 4):
            with_year = 2
            year -= 1
            length = 366 if calendar.isleap(year) else 365
            weekday = (weekday + 53 * 7 - length) % 7
            start = datetime.date(year, 1, 1)
    if (first_weekday and weekday != 0) or (not first_weekday and weekday >= 4):
        days = (day - start).days - (7 - weekday)
    else:
        days = (day - start).days + weekday
    if with_year and days >= 52 * 7:
        length = 366 if calendar.isleap(year) else 365
        weekday = (weekday + length) % 7
        if (not first_weekday and weekday < 4) or (first_weekday and weekday == 0):
            return year + 1, 1
    return year, days // 7 + 1


def _weekday(day: datetime.date, monday_first: int) -> int:
    return day.weekday() if monday_first else (day.weekday() + 1) % 7


def ordinal(day: int) -> str:
    """1st, 2nd, 3rd, 4th ..."""
    if 10 < day % 100 < 14:
        return f"{day}th"
    return f"{day}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th') }".replace(" ", "")


def date_format(value, pattern, *locale) -> str | None:
    """DATE_FORMAT."""
    moment = parse_datetime(value)
    if moment is None or pattern is None:
        return None
    return re.sub(
        r"%(.)", lambda m: _formatted(moment, m.group(1)), pattern, flags=re.S
    )


def time_format(value, pattern) -> str | None:
    """TIME_FORMAT."""
    seconds = dates.time_seconds(value)
    if seconds is None or pattern is None:
        return None
    micro = round(abs(seconds) * 10**6)
    hours = micro // 3_600_000_000
    moment = _EPOCH + datetime.timedelta(microseconds=micro % 86_400_000_000)

    def shown(match) -> str:
        letter = match.group(1)
        if letter in "Hk":
            return f"{hours:02d}" if letter == "H" else str(hours)
        return _formatted(moment, letter)

    return re.sub(r"%(.)", shown, pattern, flags=re.S)


def _formatted(m: datetime.datetime, letter: str) -> str:
    hour = (m.hour + 11) % 12 + 1
    half = "AM" if m.hour < 12 else "PM"
    table = {
        "a": lambda: DAYS[m.weekday()][:3],
        "b": lambda: MONTHS[m.month - 1][:3],
        "c": lambda: str(m.month),
        "D": lambda: ordinal(m.day),
        "d": lambda: f"{m.day:02d}",
        "e": lambda: str(m.day),
        "f": lambda: f"{m.microsecond:06d}",
        "H": lambda: f"{m.hour:02d}",
        "h": lambda: f"{hour:02d}",
        "I": lambda: f"{hour:02d}",
        "i": lambda: f"{m.minute:02d}",
        "j": lambda: f"{m.timetuple().tm_yday:03d}",
        "k": lambda: str(m.hour),
        "l": lambda: str(hour),
        "M": lambda: MONTHS[m.month - 1],
        "m": lambda: f"{m.month:02d}",
        "p": lambda: half,
        "r": lambda: f"{hour:02d}:{m.minute:02d}:{m.second:02d} {half}",
        "S": lambda: f"{m.second:02d}",
        "s": lambda: f"{m.second:02d}",
        "T": lambda: f"{m.hour:02d}:{m.minute:02d}:{m.second:02d}",
        "U": lambda: f"{week(m, 0)[1]:02d}",
        "u": lambda: f"{week(m, 1)[1]:02d}",
        "V": lambda: f"{week(m, 2)[1]:02d}",
        "v": lambda: f"{week(m, 3)[1]:02d}",
        "W": lambda: DAYS[m.weekday()],
        "w": lambda: str((m.weekday() + 1) % 7),
        "X": lambda: f"{week(m, 2)[0]:04d}",
        "x": lambda: f"{week(m, 3)[0]:04d}",
        "Y": lambda: f"{m.year:04d}",
        "y": lambda: f"{m.year % 100:02d}",
    }
    return table[letter]() if letter in table else letter


_NUMBERS = {
    "c": ("month", 2), "m": ("month", 2), "d": ("day", 2), "e": ("day", 2),
    "H": ("hour", 2), "k": ("hour", 2), "h": ("hour12", 2), "I": ("hour12", 2),
    "l": ("hour12", 2), "i": ("minute", 2), "S": ("second", 2), "s": ("second", 2),
    "Y": ("year", 4), "y": ("year2", 2), "j": ("yearday", 3),
}  # fmt: skip


def str_to_date(text, pattern, kind: str) -> str | None:
    """STR_TO_DATE.

    Args:
      text: what is read.
      pattern: how.
      kind: "date", "time" or "datetime": what it gives.
    """
    if text is None or pattern is None:
        return None
    found = _read(text, pattern)
    if found is None:
        return None
    hour = found.get("hour", 0)
    if "hour12" in found:
        hour = found["hour12"] % 12 + (12 if found.get("half") == "PM" else 0)
    clock = hour, found.get("minute", 0), found.get("second", 0)
    if hour > 23 or clock[1] > 59 or clock[2] > 59:
        return None
    micro = found.get("micro", 0)
    if kind == "time":
        seconds = clock[0] * 3600 + clock[1] * 60 + clock[2]
        return dates.show_time(seconds * 10**6 + micro)
    year = found.get("year", found.get("year2"))
    try:
        if "yearday" in found:
            day = datetime.datetime(year, 1, 1)
            moment = day + datetime.timedelta(days=found["yearday"] - 1)
        else:
            moment = datetime.datetime(year, found["month"], found["day"])
        time = datetime.time(*clock, micro)
        shown = dates.show_datetime(datetime.datetime.combine(moment, time))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return shown[:10] if kind == "date" else shown


def _read(text: str, pattern: str) -> dict | None:
    pattern = pattern.replace("%T", "%H:%i:%s").replace("%r", "%h:%i:%s %p")
    found: dict = {}
    at = position = 0
    while position < len(pattern):
        letter = pattern[position]
        position += 1
        while at < len(text) and text[at].isspace():
            at += 1
        if letter.isspace():
            continue
        if at >= len(text):
            break
        if letter != "%" or position >= len(pattern):
            if text[at] != letter:
                return None
            at += 1
            continue
        letter = pattern[position]
        position += 1
        size = _take(text[at:], letter, found)
        if size is None:
            return None
        at += size
    return found


def _take(text: str, letter: str, found: dict) -> int | None:
    """Reads one part into `found`; how many characters it took."""
    if letter in _NUMBERS:
        name, most = _NUMBERS[letter]
        match = re.match(rf"\d{{1,{most}}}", text)
        if match is None:
            return None
        value = int(match.group())
        if name == "year2" or (name == "year" and len(match.group()) <= 2):
            value = dates._century(value)
        found[name] = value
        return match.end()
    if letter == "D":
        match = re.match(r"(\d{1,2})(st|nd|rd|th)", text, re.I)
        if match is None:
            return None
        found["day"] = int(match.group(1))
        return match.end()
    if letter == "f":
        match = re.match(r"\d{1,6}", text)
        if match is None:
            return None
        found["micro"] = int(match.group().ljust(6, "0"))
        return match.end()
    if letter == "p":
        half = text[:2].upper()
        if half not in ("AM", "PM"):
            return None
        found["half"] = half
        return 2
    if letter in "Mb":
        names = MONTHS if letter == "M" else [name[:3] for name in MONTHS]
        return _take_name(text, names, found, "month")
    if letter in "Wa":
        names = DAYS if letter == "W" else [name[:3] for name in DAYS]
        return _take_name(text, names, found, "weekday")
    if letter == "%":
        return 1 if text[:1] == "%" else None
    return None


def _take_name(text: str, names: list[str], found: dict, key: str) -> int | None:
    match = re.match(r"[A-Za-z]+", text)
    word = match.group().lower() if match else ""
    if not word:
        return None
    fits = [n for n, name in enumerate(names, 1) if name.lower().startswith(word)]
    exact = [n for n in fits if len(names[n - 1]) == len(word)]
    if not exact and len(fits) != 1:
        for number, name in enumerate(names, 1):
            if text.lower().startswith(name.lower()):
                found[key] = number
                return len(name)
        return None
    found[key] = (exact or fits)[0]
    return len(word)
