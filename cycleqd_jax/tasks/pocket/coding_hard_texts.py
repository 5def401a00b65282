"""Families of Python functions on words, numbers and dictionaries, in several steps.

Constants are pairs of a wording and its code, so a family has many compositions.
"""

# ruff: noqa: E501 (the families read best as a table)

import functools

from cycleqd_jax.tasks.pocket.coding_inputs import LETTERS
from cycleqd_jax.tasks.pocket.coding_template import CodingTemplate

_hard = functools.partial(CodingTemplate, telling=True)
_new = functools.partial(_hard, held_out=True)

# Conditions on a word w, and what is done with it.
_WORD = (
    ("longer than {k} characters", "len(w) > {k}"),
    ("shorter than {k} characters", "len(w) < {k}"),
    ("starting with '{c}'", "w.startswith('{c}')"),
    ("containing '{c}'", "'{c}' in w"),
    ("not containing '{c}'", "'{c}' not in w"),
)
_CHANGE = (
    ("in upper case", "w.upper()"),
    ("spelled backwards", "w[::-1]"),
    ("without the first letter", "w[1:]"),
    ("cut to {m} letters", "w[:{m}]"),
    ("followed by '{s}'", "w + '{s}'"),
)
_WORDS = {"k": (4, 5), "m": range(2, 4), "c": "aelmnorst", "s": "!?*.", "p": _WORD}
_TEXT = (
    ("spelled backwards", "[::-1]"),
    ("in upper case", ".upper()"),
    ("cut to {m} characters", "[:{m}]"),
    ("repeated {m} times", " * {m}"),
)
_ENDS = (("longest", "max"), ("shortest", "min"))
_PARITY = (("even", "== 0"), ("odd", "== 1"))
# Conditions on a value v.
_VALUE = (
    ("above {k}", "v > {k}"),
    ("below {k}", "v < {k}"),
    ("of at least {k}", "v >= {k}"),
    ("of at most {k}", "v <= {k}"),
)
_K, _DIGIT = range(2, 13), range(2, 10)
_COPRIME = (
    ("2", "3"),
    ("2", "5"),
    ("2", "7"),
    ("3", "4"),
    ("3", "5"),
    ("3", "7"),
    ("4", "5"),
)

# fmt: off
TEXTS = (
    # Lists of words.
    _hard("words_join", "words_join glue", "words",
        "the strings in {x} {p[0]}, joined by '{s}' | "
        "one string of the strings in {x} {p[0]}, with '{s}' between them",
        "'{s}'.join(w for w in {x} if {p[1]})", {**_WORDS, "s": "-+/:;#_"}),
    _hard("words_change", "words_change edit", "words",
        "a list of the strings in {x} {p[0]}, each {f[0]} | "
        "each string in {x} {p[0]}, {f[0]}, as a list",
        "out = []\nfor w in {x}:\n    if {p[1]}:\n        out.append({f[1]})\nreturn out",
        {**_WORDS, "f": _CHANGE}),
    _hard("words_total", "words_total total", "words",
        "the total length of the strings in {x} {p[0]} | "
        "how many characters the strings in {x} {p[0]} have together",
        "total = 0\nfor w in {x}:\n    if {p[1]}:\n        total += len(w)\nreturn total",
        _WORDS),
    _hard("words_sorted", "words_sorted arrange", "words",
        "the list {x} sorted by {f[0]}, then alphabetically | "
        "a list of the strings in {x}, by {f[0]} and equal ones by alphabet",
        "sorted({x}, key=lambda w: ({f[1]}, w))",
        {"c": "aelmnorst", "f": (
            ("length", "len(w)"), ("length, longest first", "-len(w)"),
            ("last letter", "w[-1]"), ("number of '{c}'s", "w.count('{c}')"))}),
    _hard("words_if_else", "words_if_else edit", "words",
        "a list of the strings in {x}, {f[0]} if {p[0]} | "
        "the list {x} with only the strings {p[0]} changed, to be {f[0]}",
        "[{f[1]} if {p[1]} else w for w in {x}]", {**_WORDS, "f": _CHANGE}),
    # Texts.
    _hard("letters", "letters only", "text",
        "a string of the characters of {x} that are {p[0]}, {f[0]} | "
        "only those characters of {x} which are {p[0]}, {f[0]}",
        "''.join(c for c in {x} if c {p[1]}){f[1]}",
        {"c": LETTERS, "m": range(2, 4), "f": _TEXT, "p": (
            ("vowels", "in 'aeiou'"), ("not vowels", "not in 'aeiou'"),
            ("not '{c}'", "!= '{c}'"))}),
    _hard("letter_places", "letter_places places", "text",
        "a list of the indices of '{c}' in the string {x}, each plus {m} | "
        "the places of '{c}' in {x}, from {m} on, as a list",
        "out = []\nfor i, c in enumerate({x}):\n    if c == '{c}':\n"
        "        out.append(i + {m})\nreturn out",
        {"c": LETTERS, "m": range(1, 10)}),
    _hard("phrase_join", "phrase_join glue", "phrase",
        "the words of {x} in {f[0]} order, joined by '{s}' | "
        "one string of the words in {x}, in {f[0]} order, with '{s}' between them",
        "words = {f[1]}\nreturn '{s}'.join(words)",
        {"s": "-+/:;#_", "f": (
            ("reverse", "{x}.split()[::-1]"), ("alphabetical", "sorted({x}.split())"))}),
    _hard("phrase_count", "phrase_count how_many", "phrase",
        "how many words in {x} are {p[0]} | "
        "the number of words of the string {x} {p[0]}",
        "count = 0\nfor w in {x}.split():\n    if {p[1]}:\n        count += 1\nreturn count",
        {**_WORDS, "p": _WORD[:2]}),
    _hard("phrase_length", "phrase_length size", "phrase",
        "the length of the {f[0]} word in {x} plus {m}, or {m} without words | "
        "{m} plus the length of the {f[0]} word of {x}, just {m} without words",
        "{f[1]}([len(w) for w in {x}.split()], default=0) + {m}",
        {"m": _DIGIT, "f": _ENDS}),
    # Numbers.
    _hard("digits_where", "digits_where cross", "natural",
        "the sum of the {q[0]} digits of {x}, times {m} | "
        "{m} times the sum of the digits of {x} that are {q[0]}",
        "total = 0\nfor c in str({x}):\n    if int(c) % 2 {q[1]}:\n"
        "        total += int(c)\nreturn total * {m}",
        {"q": _PARITY, "m": _DIGIT}),
    _hard("range_sum", "range_sum series", "upto",
        "the sum of the numbers from 1 to {x} divisible by {t[0]} {q} {t[1]} | "
        "the sum of all i from 1 to {x} that are multiples of {t[0]} {q} {t[1]}",
        "total = 0\nfor i in range(1, {x} + 1):\n    if i % {t[0]} == 0 {q} i % {t[1]} == 0:\n"
        "        total += i\nreturn total",
        {"t": _COPRIME, "q": ("and", "or")}),
    _hard("divisors", "divisors factors", "upto",
        "a list of the divisors of {x} that are at least {k}, {r[0]} first | "
        "the numbers from {k} to {x} that divide {x}, the {r[0]} first",
        "[i for i in {r[1]} if {x} % i == 0]",
        {"k": range(2, 6), "r": (
            ("smallest", "range({k}, {x} + 1)"), ("largest", "range({x}, {k} - 1, -1)"))}),
    _hard("divisions", "divisions halvings", "natural",
        "how often {x} can be divided by {k}, rounding down, until it is below {m} | "
        "the number of divisions of {x} by {k}, rounded down, while it is at least {m}",
        "count = 0\nwhile {x} >= {m}:\n    {x} //= {k}\n    count += 1\nreturn count",
        {"k": range(2, 6), "m": range(2, 10)}),
    _hard("power", "power growth", "natural",
        "the smallest of {m}, {m} times {k}, {m} times {k} times {k}, ... above {x} | "
        "{m} multiplied by {k} as often as needed to be above {x}",
        "p = {m}\nwhile p <= {x}:\n    p *= {k}\nreturn p",
        {"k": range(2, 6), "m": range(1, 6)}),
    _hard("piecewise", "piecewise price", "int",
        "{x} times {m} if it is above {j}, minus {m} if it is below {k}, else {x} | "
        "{x} * {m} for {x} above {j}, {x} - {m} for {x} below {k}, otherwise {x}",
        "if {x} > {j}:\n    return {x} * {m}\nif {x} < {k}:\n    return {x} - {m}\nreturn {x}",
        {"k": range(-3, 4), "j": range(3, 12), "m": _DIGIT}),
    _hard("pair_if", "pair_if fee", "pair",
        "{f[0]} if {a} is greater than {b}, else {g[0]} | "
        "{g[0]}, but {f[0]} where {a} is greater than {b}",
        "if {a} > {b}:\n    return {f[1]}\nreturn {g[1]}",
        {"m": _DIGIT, "k": _DIGIT,
         "f": (("{a} minus {b}", "{a} - {b}"), ("{a} times {m}", "{a} * {m}"), ("{a} plus {m}", "{a} + {m}")),
         "g": (("{a} times {b}", "{a} * {b}"), ("{b} times {k}", "{b} * {k}"), ("{b} minus {k}", "{b} - {k}"))}),
    # Dictionaries.
    _hard("dict_total", "dict_total total", "prices",
        "{m} times the sum of the values of the dict {x} that are {p[0]} | "
        "the sum of the values {p[0]} in the dict {x}, multiplied by {m}",
        "total = 0\nfor v in {x}.values():\n    if {p[1]}:\n        total += v\n"
        "return total * {m}",
        {"k": _K, "m": _DIGIT, "p": _VALUE}),
    _hard("dict_change", "dict_change update", "prices",
        "the dict {x} with only the values {p[0]}, each {f[0]} | "
        "a dict of the keys in {x} with values {p[0]}, the values {f[0]}",
        "{{k: {f[1]} for k, v in {x}.items() if {p[1]}}}",
        {"k": _K, "m": _DIGIT, "p": _VALUE, "f": (
            ("times {m}", "v * {m}"), ("plus {m}", "v + {m}"), ("minus {m}", "v - {m}"))}),
    # Held out.
    _new("words_count", "words_count how_many", "words",
        "how often '{c}' occurs in all strings in {x} {p[0]} | "
        "the number of '{c}'s in the strings in {x} {p[0]}",
        "total = 0\nfor w in {x}:\n    if {p[1]}:\n        total += w.count('{c}')\n"
        "return total",
        {**_WORDS, "p": _WORD[:2]}),
    _new("words_first", "words_first find", "words",
        "the first string in {x} {p[0]}, {f[0]}, or None | "
        "the first string of the list {x} {p[0]}, {f[0]}, else None",
        "for w in {x}:\n    if {p[1]}:\n        return {f[1]}\nreturn None",
        {**_WORDS, "f": _CHANGE}),
    _new("phrase_change", "phrase_change edit", "phrase",
        "the words of {x} {p[0]}, each {f[0]}, joined by '{s}' | "
        "one string of the words in {x} {p[0]}, {f[0]}, with '{s}' between them",
        "words = [w for w in {x}.split() if {p[1]}]\nreturn '{s}'.join({f[1]} for w in words)",
        {**_WORDS, "s": "-+/:;#_", "p": _WORD[:2], "f": _CHANGE[:3]}),
    _new("letters_count", "letters_count how_many", "text",
        "how many characters of {x} are {p[0]}, times {m} | "
        "{m} times the number of characters of {x} that are {p[0]}",
        "count = 0\nfor c in {x}:\n    if c {p[1]}:\n        count += 1\nreturn count * {m}",
        {"c": LETTERS, "m": _DIGIT, "p": (
            ("vowels", "in 'aeiou'"), ("not vowels", "not in 'aeiou'"),
            ("not '{c}'", "!= '{c}'"))}),
    _new("digits_above", "digits_above how_many", "natural",
        "how many digits of {x} are {q[0]} {k}, plus {m} | "
        "{m} more than the number of digits of {x} {q[0]} {k}",
        "count = {m}\nfor c in str({x}):\n    if int(c) {q[1]} {k}:\n        count += 1\n"
        "return count",
        {"k": range(2, 7), "m": _DIGIT, "q": (("above", ">"), ("below", "<"))}),
    _new("range_list", "range_list series", "upto",
        "a list of the numbers from 1 to {x} divisible by {t[0]} but not by {t[1]} | "
        "all i from 1 to {x} that are multiples of {t[0]} and not of {t[1]}, as a list",
        "out = []\nfor i in range(1, {x} + 1):\n    if i % {t[0]} == 0 and i % {t[1]} != 0:\n"
        "        out.append(i)\nreturn out",
        {"t": _COPRIME}),
    _new("dict_keys_sorted", "dict_keys_sorted winners", "prices",
        "the keys of the dict {x} with values {p[0]}, sorted by value | "
        "a list of the keys in {x} whose value is {p[0]}, in the order of values",
        "sorted([k for k, v in {x}.items() if {p[1]}], key={x}.get)",
        {"k": _K, "p": (("above {k}", "v > {k}"), ("below {k}", "v < {k}"))}),
    _new("dict_extreme", "dict_extreme choose", "prices",
        "the {f[0]} of the values of the dict {x} {p[0]}, or {d} without any | "
        "the {f[0]} value {p[0]} in the dict {x}, and {d} if there is none",
        "{f[1]}([v for v in {x}.values() if {p[1]}], default={d})",
        {"k": _K, "p": _VALUE, "d": ("None", "0"),
         "f": (("largest", "max"), ("smallest", "min"))}),
    _new("words_dict", "words_dict index", "words",
        "a dict from each string in {x} {p[0]} to its {f[0]} | "
        "a dict with the {f[0]} of each string in {x} {p[0]}",
        "{{w: {f[1]} for w in {x} if {p[1]}}}",
        {**_WORDS, "f": (
            ("length", "len(w)"), ("last letter", "w[-1]"),
            ("number of '{c}'s", "w.count('{c}')"))}),
    _new("replace_then", "replace_then change", "text",
        "{x} with each '{c}' replaced by '{e}', {f[0]} | "
        "the string {x} after replacing '{c}' by '{e}', {f[0]}",
        "out = {x}.replace('{c}', '{e}')\nreturn out{f[1]}",
        {"c": LETTERS, "e": ("xy", "z", "", "oo"), "m": range(2, 5), "f": _TEXT}),
    _new("dict_top", "dict_top winners", "dict",
        "a list of the {k} keys of the dict {x} with the {r[0]} values, {r[0]} first | "
        "the keys of the {k} {r[0]} values in the dict {x}, {r[0]} first",
        "sorted({x}, key={x}.get{r[1]})[:{k}]",
        {"k": range(2, 5), "r": (("smallest", ""), ("largest", ", reverse=True"))}),
)
# fmt: on
