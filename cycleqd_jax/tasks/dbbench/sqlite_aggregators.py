"""Aggregates registered on SQLite's connection; most can be windows too."""

import math
from decimal import Decimal

from cycleqd_jax.tasks.dbbench import sqlite_json
from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour, MySQLError
from cycleqd_jax.tasks.dbbench.sqlite_numbers import divide, plain

_CONCAT_BYTES = {Flavour.MYSQL8: 1024, Flavour.MARIADB: 1 << 20}


class _Sum:
    """SUM of integers and decimals: exact."""

    def __init__(self):
        self.total = Decimal(0)
        self.count = 0

    def step(self, value):
        """Takes a value in."""
        if value is not None:
            self.total += Decimal(value)
            self.count += 1

    def inverse(self, value):
        """Takes it out again."""
        if value is not None:
            self.total -= Decimal(value)
            self.count -= 1

    def value(self):
        """The sum so far."""
        return plain(self.total) if self.count else None

    def finalize(self):
        """The sum."""
        return self.value()


class _Average(_Sum):
    """AVG of integers and decimals."""

    def value(self):
        """The mean so far."""
        return divide(self.total, self.count) if self.count else None


class _SumDouble:
    """SUM of floats, one after another as MySQL adds them."""

    def __init__(self):
        self.values = []

    def step(self, value):
        """Takes a value in."""
        if value is not None:
            self.values.append(value)

    def inverse(self, value):
        """Takes the oldest out again."""
        if value is not None:
            self.values.pop(0)

    def value(self):
        """The sum so far."""
        if not self.values:
            return None
        total = 0.0
        for value in self.values:
            total += value
        return total

    def finalize(self):
        """The sum."""
        return self.value()


class _AverageDouble(_SumDouble):
    """AVG of floats."""

    def value(self):
        """The mean so far."""
        total = super().value()
        return None if total is None else total / len(self.values)


class _Variance:
    """VARIANCE and its kin, by Welford's method as MySQL."""

    sample = False
    root = False

    def __init__(self):
        self.count, self.mean, self.spread = 0, 0.0, 0.0

    def step(self, value):
        """Takes a value in."""
        if value is not None:
            self.count += 1
            delta = value - self.mean
            self.mean += delta / self.count
            self.spread += delta * (value - self.mean)

    def finalize(self):
        """The variance or deviation."""
        divisor = self.count - self.sample
        if divisor <= 0:
            return None
        variance = self.spread / divisor
        return math.sqrt(variance) if self.root else variance


class _Deviation(_Variance):
    """STD."""

    root = True


class _VarianceSample(_Variance):
    """VAR_SAMP."""

    sample = True


class _DeviationSample(_Variance):
    """STDDEV_SAMP."""

    sample = True
    root = True


class _First:
    """The value of a group's first row."""

    def __init__(self):
        self.found = None
        self.empty = True

    def step(self, value):
        """Takes a value in."""
        if self.empty:
            self.found, self.empty = value, False

    def finalize(self):
        """The first."""
        return self.found


class _Extreme:
    """MIN or MAX of times."""

    wins = staticmethod(min)

    def __init__(self):
        self.best = None

    def step(self, value):
        """Takes a value in."""
        if value is not None:
            pair = _seconds(value), value
            self.best = pair if self.best is None else self.wins(self.best, pair)

    def finalize(self):
        """The smallest or largest."""
        return None if self.best is None else self.best[1]


class _ExtremeMax(_Extreme):
    """MAX of times."""

    wins = staticmethod(max)


def _seconds(value: str) -> float:
    sign = -1 if value.startswith("-") else 1
    hours, minutes, seconds = value.lstrip("-").split(":")
    return sign * (int(hours) * 3600 + int(minutes) * 60 + float(seconds))


def _bits(start: int, operation):
    class Bits:
        """BIT_AND, BIT_OR, BIT_XOR."""

        def __init__(self):
            self.found = start

        def step(self, value):
            """Takes a value in."""
            if value is not None:
                self.found = operation(self.found, int(value) & (2**64 - 1))

        def finalize(self):
            """All bits."""
            return self.found if self.found < 2**63 else str(self.found)

    return Bits


class _Single:
    """The only row of a subquery.

    Raises:
      MySQLError: there are several (1242).
    """

    def __init__(self):
        self.found = None
        self.count = 0

    def step(self, value):
        """Takes a value in."""
        self.count += 1
        self.found = value
        if self.count > 1:
            raise MySQLError(1242, "Subquery returns more than 1 row")

    def finalize(self):
        """The value, or NULL for no row."""
        return self.found


def _concatenation(limit: int, by_key: bool):
    class Concatenation:
        """GROUP_CONCAT: separator, text, key if distinct, then (down, key) pairs."""

        def __init__(self):
            self.separator = ","
            self.rows = []
            self.seen = set()
            self.down = ()

        def step(self, separator, text, same, *order):
            """Takes a value in."""
            if text is None:
                return
            if same is not None:
                if same in self.seen:
                    return
                self.seen.add(same)
            self.separator = separator
            self.down = order[::2]
            self.rows.append((text, order[1::2], same))

        def finalize(self):
            """All texts, cut to what the server allows."""
            if not self.rows:
                return None
            rows = self.rows
            if by_key and not self.down and self.seen:
                rows.sort(key=lambda row: row[2])
            for number in reversed(range(len(self.down))):
                rows.sort(
                    key=lambda row, n=number: _comparable(row[1][n]),
                    reverse=bool(self.down[number]),
                )
            joined = self.separator.join(row[0] for row in rows)
            data = joined.encode()
            if len(data) <= limit:
                return joined
            return data[:limit].decode("utf-8", "ignore")

    return Concatenation


def _comparable(key):
    """A key among others that may be NULL, numbers or text."""
    if key is None:
        return (0, 0)
    return (1, key) if isinstance(key, (int, float)) else (2, key)


class _JsonArray:
    """JSON_ARRAYAGG."""

    def __init__(self):
        self.cells = []

    def step(self, value, kind):
        """Takes a value in."""
        self.cells += [value, kind]

    def finalize(self):
        """The array."""
        return sqlite_json.array(*self.cells) if self.cells else None


class _JsonObject:
    """JSON_OBJECTAGG."""

    def __init__(self):
        self.cells = []

    def step(self, key, key_kind, value, kind):
        """Takes a pair in."""
        self.cells += [key, key_kind, value, kind]

    def finalize(self):
        """The object."""
        return sqlite_json.object_of(*self.cells) if self.cells else None


WINDOWS = {
    "m_sum": (1, _Sum),
    "m_avg": (1, _Average),
    "m_sum_double": (1, _SumDouble),
    "m_avg_double": (1, _AverageDouble),
}


def aggregates(flavour: Flavour) -> dict[str, tuple[int, type]]:
    """Name -> (number of arguments, -1 for any; class), without `WINDOWS`."""
    by_key = flavour is Flavour.MARIADB  # it sorts what is DISTINCT
    return {
        "m_std": (1, _Deviation),
        "m_std_sample": (1, _DeviationSample),
        "m_variance": (1, _Variance),
        "m_variance_sample": (1, _VarianceSample),
        "m_first": (1, _First),
        "m_min_time": (1, _Extreme),
        "m_max_time": (1, _ExtremeMax),
        "m_bit_and": (1, _bits(2**64 - 1, lambda a, b: a & b)),
        "m_bit_or": (1, _bits(0, lambda a, b: a | b)),
        "m_bit_xor": (1, _bits(0, lambda a, b: a ^ b)),
        "m_single": (1, _Single),
        "m_group_concat": (-1, _concatenation(_CONCAT_BYTES[flavour], by_key)),
        "m_json_arrayagg": (2, _JsonArray),
        "m_json_objectagg": (4, _JsonObject),
    }
