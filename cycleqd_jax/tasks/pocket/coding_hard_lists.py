"""Families of Python functions on lists of integers: loops and composed operations.

Constants are pairs of a wording and its code, so a family has many compositions.
"""

# ruff: noqa: E501 (the families read best as a table)

import functools

from cycleqd_jax.tasks.pocket.coding_template import CodingTemplate

_hard = functools.partial(CodingTemplate, telling=True)
_new = functools.partial(_hard, held_out=True)

# Conditions on a number n.
_NEAR = (
    ("greater than {k}", "n > {k}"),
    ("less than {k}", "n < {k}"),
    ("at least {k}", "n >= {k}"),
    ("at most {k}", "n <= {k}"),
)
_KIND = (
    ("even", "n % 2 == 0"),
    ("odd", "n % 2 == 1"),
    ("divisible by {m}", "n % {m} == 0"),
    ("not divisible by {m}", "n % {m} != 0"),
)
_ANY = (*_NEAR, *_KIND, ("not equal to {k}", "n != {k}"))
# What is done with each number.
_EACH = (
    ("times {m}", "n * {m}"),
    ("plus {m}", "n + {m}"),
    ("minus {m}", "n - {m}"),
    ("squared", "n * n"),
    ("negated", "-n"),
)
_PLURAL = (
    ("squares", "n * n"),
    ("doubles", "n * 2"),
    ("cubes", "n ** 3"),
    ("absolute values", "abs(n)"),
)
_EXTREME = (("largest", "max"), ("smallest", "min"))
_ENDS = (("largest", "[-{k}:]"), ("smallest", "[:{k}]"))
_PLACES = (("even", "[::2]"), ("odd", "[1::2]"))
_ORDER = (("ascending", ""), ("descending", ", reverse=True"))
_K, _M, _FEW = range(2, 13), range(3, 7), range(2, 5)

# fmt: off
LISTS = (
    # Loops with conditions.
    _hard("sum_both", "sum_both total", "ints",
        "the sum of the numbers in {x} that are {p[0]} and {q[0]} | "
        "the sum of all numbers in {x} which are {p[0]} and also {q[0]}",
        "total = 0\nfor n in {x}:\n    if {p[1]} and {q[1]}:\n        total += n\n"
        "return total",
        {"k": _K, "m": _M, "p": _NEAR, "q": _KIND}),
    _hard("sum_map_where", "sum_of total", "ints",
        "the sum of the {f[0]} of the numbers in {x} that are {p[0]} | "
        "the sum of the {f[0]} of only those numbers in {x} which are {p[0]}",
        "total = 0\nfor n in {x}:\n    if {p[1]}:\n        total += {f[1]}\n"
        "return total",
        {"k": _K, "m": _M, "p": _ANY, "f": _PLURAL}),
    _hard("list_map_where", "pick change", "ints",
        "a list of the numbers in {x} that are {p[0]}, each {f[0]} | "
        "each number in {x} that is {p[0]}, {f[0]}, as a list",
        "out = []\nfor n in {x}:\n    if {p[1]}:\n        out.append({f[1]})\nreturn out",
        {"k": _K, "m": _M, "p": _ANY, "f": _EACH}),
    _hard("map_if_else", "adjust switch", "ints",
        "a list of the numbers in {x}, {f[0]} if {p[0]}, else {g[0]} | "
        "the list {x} with each number {f[0]} if it is {p[0]} and {g[0]} if not",
        "[{f[1]} if {p[1]} else {g[1]} for n in {x}]",
        {"k": _K, "m": _M, "p": _ANY, "f": _EACH[:4],
         "g": (("unchanged", "n"), ("negated", "-n"), ("replaced by 0", "0"))}),
    _hard("count_either", "count_either how_many", "ints",
        "how many numbers in {x} are {p[0]} or {q[0]} | "
        "the count of the numbers in {x} that are {p[0]} or {q[0]}",
        "count = 0\nfor n in {x}:\n    if {p[1]} or {q[1]}:\n        count += 1\n"
        "return count",
        {"k": _K, "m": _M, "p": _NEAR, "q": _KIND}),
    _hard("first_where", "first_where find", "ints",
        "the first number in {x} that is {p[0]}, or {d} if there is none | "
        "the first number of the list {x} which is {p[0]}, and {d} if none is",
        "for n in {x}:\n    if {p[1]}:\n        return n\nreturn {d}",
        {"k": _K, "m": _M, "p": _ANY, "d": ("None", "0", "-1")}),
    _hard("first_both", "first_both find", "ints",
        "the first number in {x} that is {p[0]} and {q[0]}, or None | "
        "the first number of the list {x} which is {p[0]} and {q[0]}, else None",
        "for n in {x}:\n    if {p[1]} and {q[1]}:\n        return n\nreturn None",
        {"k": _K, "m": _M, "p": _NEAR, "q": _KIND}),
    _hard("index_where", "index_where find", "ints",
        "the index of the first number in {x} that is {p[0]}, or {d} if none is | "
        "the place, from 0, of the first number in {x} that is {p[0]}, else {d}",
        "for i, n in enumerate({x}):\n    if {p[1]}:\n        return i\nreturn {d}",
        {"k": _K, "m": _M, "p": _ANY, "d": ("None", "-1")}),
    _hard("running_sum", "running_sum sums", "ints",
        "a list of the running sums of {x}, starting from {k} | "
        "the list of {k} plus the sum of {x} up to each number",
        "total, out = {k}, []\nfor n in {x}:\n    total += n\n    out.append(total)\n"
        "return out",
        {"k": _K}),
    _hard("tally", "tally frequencies", "runs",
        "a dict from each number in {x} that is {p[0]} to its count | "
        "a dict that counts each number in {x} which is {p[0]}",
        "out = {{}}\nfor n in {x}:\n    if {p[1]}:\n        out[n] = out.get(n, 0) + 1\n"
        "return out",
        {"k": _K, "m": _M, "p": _ANY}),
    _hard("count_rises", "count_rises steps", "ints",
        "how many numbers in {x} are {p[0]} the one before | "
        "how often a number in the list {x} is {p[0]} its predecessor",
        "count = 0\nfor a, b in zip({x}, {x}[1:]):\n    if {p[1]}:\n        count += 1\n"
        "return count",
        {"m": range(2, 12), "p": (
            ("more than {m} above", "b - a > {m}"), ("at least twice", "b >= a * 2"),
            ("more than {m} below", "a - b > {m}"), ("at least {m} above", "b - a >= {m}"))}),
    # Composed operations.
    _hard("end_sum", "end_sum score", "unique",
        "{m} times the sum of the {k} {q[0]} numbers in {x} | "
        "the sum of the {k} {q[0]} numbers in {x}, multiplied by {m}",
        "{m} * sum(sorted({x}){q[1]})",
        {"k": _FEW, "m": range(2, 10), "q": _ENDS}),
    _hard("sort_key", "sort_key arrange", "unique",
        "the list {x} sorted by {f[0]}, {r[0]} | "
        "the numbers in {x} in {r[0]} order of their {f[0]}, as a list",
        "sorted({x}, key=lambda n: {f[1]}{r[1]})",
        {"k": _K, "m": range(5, 10), "r": _ORDER, "f": (
            ("distance from {k}", "abs(n - {k})"), ("remainder by {m}", "n % {m}"),
            ("absolute value", "abs(n)"), ("last digit", "abs(n) % 10"))}),
    _hard("mean_where", "mean_where average", "ints",
        "the mean of the numbers in {x} that are {p[0]}, or 0 if there are none | "
        "the average of the numbers in {x} which are {p[0]}, 0 without any",
        "found = [n for n in {x} if {p[1]}]\n"
        "return sum(found) / len(found) if found else 0",
        {"k": _K, "m": _M, "p": _ANY}),
    _hard("extreme_where", "best_where choose", "ints",
        "the {f[0]} number in {x} that is {p[0]}, or {d} if there is none | "
        "the {f[0]} of the numbers in {x} which are {p[0]}, and {d} without any",
        "{f[1]}([n for n in {x} if {p[1]}], default={d})",
        {"k": _K, "m": _M, "p": _ANY, "f": _EXTREME, "d": ("None", "0")}),
    _hard("places_sum", "places_sum alternate", "ints",
        "{m} times the sum of the numbers at {q[0]} indices of {x} | "
        "the sum of the numbers in {x} at {q[0]} indices, multiplied by {m}",
        "{m} * sum({x}{q[1]})", {"m": range(2, 10), "q": _PLACES}),
    _hard("places_where", "places_where alternate", "ints",
        "a list of the numbers at {q[0]} indices of {x} that are {p[0]} | "
        "the numbers in {x} at {q[0]} indices which are {p[0]}, as a list",
        "[n for n in {x}{q[1]} if {p[1]}]",
        {"k": _K, "m": _M, "p": _ANY, "q": _PLACES}),
    _hard("trimmed_sum", "trimmed_sum middle", "unique",
        "the sum of the numbers in {x} without the {k} smallest and {m} largest | "
        "the sum of {x}, leaving out its {k} smallest and {m} largest numbers",
        "sum(sorted({x})[{k}:-{m}])", {"k": range(1, 5), "m": range(1, 5)}),
    _hard("parted", "parted divide", "ints",
        "two lists, of the numbers in {x} that are {p[0]} and of the others | "
        "the numbers in {x} which are {p[0]} and the rest, as two lists",
        "yes = [n for n in {x} if {p[1]}]\nno = [n for n in {x} if not {p[1]}]\n"
        "return yes, no",
        {"k": _K, "m": _M, "p": _ANY}),
    _hard("rotated", "rotated turn", "unique",
        "the list {x} rotated by {k} places to the {q[0]} | "
        "the list {x} with its {q[2]}",
        "{q[1]}",
        {"k": _FEW, "q": (
            ("left", "{x}[{k}:] + {x}[:{k}]", "first {k} items moved to the end"),
            ("right", "{x}[-{k}:] + {x}[:-{k}]", "last {k} items moved to the front"))}),
    # Two lists.
    _hard("common", "common shared", "lists",
        "a sorted list of the numbers in {q[0]}, in {r[0]} order | "
        "the numbers in {q[0]} sorted, {r[0]}",
        "sorted(set({a}) {q[1]} set({b}){r[1]})",
        {"r": _ORDER, "q": (
            ("both {a} and {b}", "&"), ("{a} but not {b}", "-"), ("{a} or {b}", "|"))}),
    # Held out.
    _new("product_where", "product_where multiply", "ints",
        "the product of the numbers in {x} that are {p[0]}, starting from {m} | "
        "{m} times the product of the numbers in {x} which are {p[0]}",
        "total = {m}\nfor n in {x}:\n    if {p[1]}:\n        total *= n\nreturn total",
        {"k": _K, "m": _M, "p": _ANY}),
    _new("last_where", "last_where find", "ints",
        "the last number in {x} that is {p[0]}, or {d} if there is none | "
        "the last number of the list {x} which is {p[0]}, and {d} if none is",
        "for n in {x}[::-1]:\n    if {p[1]}:\n        return n\nreturn {d}",
        {"k": _K, "m": _M, "p": _ANY, "d": ("None", "0", "-1")}),
    _new("list_before", "list_before until", "ints",
        "a list of the numbers in {x} before the first that is {p[0]} | "
        "the list {x} up to, without, the first number {p[0]}",
        "out = []\nfor n in {x}:\n    if {p[1]}:\n        break\n    out.append(n)\n"
        "return out",
        {"k": _K, "m": _M, "p": _ANY}),
    _new("indices_where", "indices_where places", "ints",
        "a list of the indices of the numbers in {x} that are {p[0]} and {q[0]} | "
        "the places, from 0, of the numbers in {x} which are {p[0]} and {q[0]}",
        "out = []\nfor i, n in enumerate({x}):\n    if {p[1]} and {q[1]}:\n"
        "        out.append(i)\nreturn out",
        {"k": _K, "m": _M, "p": _NEAR, "q": _KIND}),
    _new("trimmed_list", "trimmed_list middle", "unique",
        "the list {x} sorted, without its {k} smallest and {m} largest numbers | "
        "a sorted list of {x}, leaving out its {k} smallest and {m} largest numbers",
        "sorted({x})[{k}:-{m}]", {"k": range(1, 5), "m": range(1, 5)}),
    _new("end_mean", "end_mean score", "unique",
        "the mean of the {k} {q[0]} numbers in {x}, plus {m} | "
        "{m} more than the average of the {k} {q[0]} numbers in {x}",
        "sum(sorted({x}){q[1]}) / {k} + {m}",
        {"k": _FEW, "m": range(2, 10), "q": _ENDS}),
    _new("larger_places", "larger_places compare", "lists",
        "how many numbers in {a} are {q[0]} the number at the same place of {b} | "
        "how often a number in {a} is {q[0]} its neighbour in {b}",
        "sum({q[1]} for u, v in zip({a}, {b}))",
        {"m": range(2, 7), "q": (
            ("greater than", "u > v"), ("more than {m} above", "u - v > {m}"),
            ("more than {m} below", "v - u > {m}"))}),
    _new("sum_before", "sum_before total", "ints",
        "the sum of the numbers in {x} before the first that is {p[0]} | "
        "the sum of the list {x} up to, without, the first number {p[0]}",
        "total = 0\nfor n in {x}:\n    if {p[1]}:\n        break\n    total += n\n"
        "return total",
        {"k": _K, "m": _M, "p": _ANY}),
    _new("skip_equal", "skip_equal squeeze", "runs",
        "the list {x} without numbers equal to the one before, each {f[0]} | "
        "a list with one number of each run of equal numbers in {x}, {f[0]}",
        "out = []\nfor i, n in enumerate({x}):\n    if i == 0 or n != {x}[i - 1]:\n"
        "        out.append({f[1]})\nreturn out",
        {"m": _M, "f": _EACH}),
    _new("running_best", "running_best so_far", "ints",
        "a list of the {f[0]} number so far at each place of {x} | "
        "the list of the {f[0]} of the first numbers of {x}, up to each place",
        "[{f[1]}({x}[:i + 1]) for i in range(len({x}))]", {"f": _EXTREME}),
    _new("weighted_where", "weighted score", "ints",
        "the sum of the numbers in {x} that are {p[0]}, each times its index | "
        "the sum of index times number of all numbers in {x} which are {p[0]}",
        "sum(i * n for i, n in enumerate({x}) if {p[1]})",
        {"k": _K, "m": _M, "p": _ANY}),
    _new("paired", "paired combine", "lists",
        "a list of the {f[0]} of the numbers at the same places of {a} and {b} | "
        "the {f[0]} of {a} and {b}, place by place, as a list",
        "[{f[1]} for u, v in zip({a}, {b})]",
        {"m": range(2, 10), "f": (
            ("sums, times {m},", "(u + v) * {m}"), ("products, plus {m},", "u * v + {m}"),
            ("maxima, plus {m},", "max(u, v) + {m}"))}),
)
# fmt: on
