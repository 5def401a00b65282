"""Families of shell commands that are pipelines, and print what they find.

Constants are a wording, its command and what that does to lines, in Python.
"""

# ruff: noqa: E501 (the families read best as a table)

import collections
import functools

from cycleqd_jax.tasks.pocket.shell_files import inside, lines_of, text_of
from cycleqd_jax.tasks.pocket.shell_templates import ShellTemplate

_hard = ShellTemplate
_new = functools.partial(ShellTemplate, held_out=True)

# Lines that a filter keeps.
FILTER = (
    ("that contain {w}", "grep {w}", lambda r, c: c["w"] in r),
    ("that do not contain {w}", "grep -v {w}", lambda r, c: c["w"] not in r),
    ("that start with {w}", "grep ^{w}", lambda r, c: r.startswith(c["w"])),
    ("that end with {w}", "grep {w}$", lambda r, c: r.endswith(c["w"])),
)
# What happens to all lines.
THEN = (
    ("sorted", "sort", sorted),
    ("sorted in reverse", "sort -r", lambda rows: sorted(rows, reverse=True)),
    ("with the last line first", "tac", lambda rows: rows[::-1]),
    ("in upper case", "tr a-z A-Z", lambda rows: [r.upper() for r in rows]),
    ("each line spelled backwards", "rev", lambda rows: [r[::-1] for r in rows]),
)
_ENDS = (
    ("first", "head", lambda rows, n: rows[:n]),
    ("last", "tail", lambda rows, n: rows[-n:]),
)
_SIZES = (
    ("largest", "sort -nr", lambda rows: sorted(rows, key=int, reverse=True)),
    ("smallest", "sort -n", lambda rows: sorted(rows, key=int)),
)
_OVER = (
    ("above {m}", "> {m}", lambda n, c: n > c["m"]),
    ("below {m}", "< {m}", lambda n, c: n < c["m"]),
)
_FEW, _MORE = range(1, 4), range(5, 8)


def _file(s, c, name="f"):
    return lines_of(s[c[name]])


def _kept(s, c):
    return [r for r in _file(s, c) if c["p"][2](r, c)]


def _cells(s, c):
    return [r.split(",") for r in _file(s, c)]


def _counted(rows):
    return [f"{n} {row}" for row, n in collections.Counter(rows).items()]


# fmt: off
PIPELINES = (
    # Filters, then something else.
    _hard("filter_then", "print the lines of {f} {p[0]}, {q[0]} | show those lines of {f} {p[0]}, {q[0]}",
        "{p[1]} {f} | {q[1]}", "lines", lambda s, c: text_of(c["q"][2](_kept(s, c))), "dense", choices={"p": FILTER, "q": THEN}),
    _hard("filter_ends", "print the {z[0]} {m} of the lines of {f} {p[0]} | show only the {z[0]} {m} lines of {f} {p[0]}",
        "{p[1]} {f} | {z[1]} -n {m}", "lines", lambda s, c: text_of(c["z"][2](_kept(s, c), c["m"])), "dense", choices={"p": FILTER[:2], "z": _ENDS, "m": _FEW}, shorter=lambda s, c: (text_of(_kept(s, c)), text_of(c["z"][2](_file(s, c), c["m"])))),
    _hard("ends_filter", "of the {z[0]} {m} lines of {f}, print those {p[0]} | show which of the {z[0]} {m} lines of {f} are lines {p[0]}",
        "{z[1]} -n {m} {f} | {p[1]}", "lines", lambda s, c: text_of(r for r in c["z"][2](_file(s, c), c["m"]) if c["p"][2](r, c)), "dense", choices={"p": FILTER, "z": _ENDS, "m": _MORE}, shorter=lambda s, c: (text_of(_kept(s, c)), text_of(c["z"][2](_file(s, c), c["m"])))),
    _hard("then_ends", "print the {z[0]} {m} lines of {f} {q[0]} | show the {z[0]} {m} lines after making {f} {q[0]}",
        "{q[1]} {f} | {z[1]} -n {m}", "lines", lambda s, c: text_of(c["z"][2](c["q"][2](_file(s, c)), c["m"])), "dense", choices={"q": THEN[:2], "z": _ENDS, "m": _FEW}),
    _hard("filter_both", "print the lines of {f} {p[0]} and contain {v} | show those lines of {f} {p[0]} and also have {v}",
        "{p[1]} {f} | grep {v}", "lines", lambda s, c: text_of(r for r in _kept(s, c) if c["v"] in r), "dense", choices={"p": FILTER}, shorter=lambda s, c: (text_of(_kept(s, c)), text_of(r for r in _file(s, c) if c["v"] in r))),
    _hard("filter_one", "print the lines of {f} {p[0]} and do not contain {v} | show those lines of {f} {p[0]} and are without {v}",
        "{p[1]} {f} | grep -v {v}", "lines", lambda s, c: text_of(r for r in _kept(s, c) if c["v"] not in r), "dense", choices={"p": FILTER}, shorter=lambda s, c: (text_of(_kept(s, c)), text_of(r for r in _file(s, c) if c["v"] not in r))),
    _hard("nth_match", "print the {m[0]} of the lines of {f} {p[0]} | show only the {m[0]} line of {f} of those {p[0]}",
        "{p[1]} {f} | sed -n {m[1]}p", "lines", lambda s, c: "".join(_kept(s, c)[int(c["m"][1]) - 1:][:1]), "dense", choices={"p": FILTER[:2], "m": (("second", "2"), ("third", "3"))}, shorter=lambda s, c: ("".join(_file(s, c)[int(c["m"][1]) - 1:][:1]), text_of(_kept(s, c)))),
    _hard("match_word", "print word {i} of the lines of {f} {p[0]} | show the word number {i} of each line of {f} {p[0]}",
        "{p[1]} {f} | cut -d ' ' -f {i}", "lines", lambda s, c: text_of(r.split()[c["i"] - 1] if c["i"] <= len(r.split()) else "" for r in _kept(s, c)), "dense", choices={"p": FILTER[:3], "i": (1, 2)}),
    _hard("match_numbers", "print the line numbers of the lines of {f} that {p[0]} | show at which line numbers {f} has lines that {p[0]}",
        "grep {p[1]} {f} | cut -d : -f 1", "lines", lambda s, c: text_of(str(i) for i, r in enumerate(_file(s, c), 1) if c["p"][2](r, c)), "dense",
        choices={"p": (("contain {w}", "-n {w}", lambda r, c: c["w"] in r), ("do not contain {w}", "-nv {w}", lambda r, c: c["w"] not in r), ("start with {w}", "-n ^{w}", lambda r, c: r.startswith(c["w"])))}),
    _hard("substitute_then", "print {f} with each {w} replaced by {v}, {q[0]} | show {f} after changing every {w} to {v}, {q[0]}",
        "sed 's/{w}/{v}/g' {f} | {q[1]}", "lines", lambda s, c: text_of(c["q"][2]([r.replace(c["w"], c["v"]) for r in _file(s, c)])), "dense", choices={"q": THEN}),
    # Words and repeated lines.
    _hard("count_word", "count how often {w} occurs in {f} | print the number of times that {f} has the word {w}",
        "grep -o {w} {f} | wc -l", "number", lambda s, c: str(s[c["f"]].count(c["w"]))),
    _hard("all_words", "print the words of {f}, one per line, {q[0]} | show all words of {f}, each on a line, {q[0]}",
        "tr ' ' '\\n' < {f} | {q[1]}", "lines", lambda s, c: text_of(c["q"][2](s[c["f"]].split())), "dense",
        choices={"q": (*THEN[:3], ("sorted, without duplicates", "sort -u", lambda rows: sorted(set(rows))))}),
    _hard("count_distinct", "count the different lines of {f} | print how many distinct lines {f} has",
        "sort -u {f} | wc -l", "number", lambda s, c: str(len(set(_file(s, c)))), "repeated"),
    _hard("tally", "print each different line of {f} after its count, in {q[0]} order | show how often each line of {f} occurs, count first, in {q[0]} order of lines",
        "{q[1]} {f} | uniq -c", "columns", lambda s, c: text_of(_counted(c["q"][2](_file(s, c)))), "repeated",
        choices={"q": (("alphabetical", "sort", sorted), ("reverse alphabetical", "sort -r", lambda rows: sorted(rows, reverse=True)))}),
    _hard("ranking", "print each different line of {f} after its count, {q[0]} first | show how often each line of {f} occurs, count first, the {q[0]} lines first",
        "sort {f} | uniq -c | {q[1]}", "columns", lambda s, c: text_of(sorted(_counted(_file(s, c)), key=lambda r: int(r.split()[0]), reverse=c["q"][0] == "most frequent")), "ranked",
        choices={"q": (("most frequent", "sort -nr"), ("rarest", "sort -n"))}),
    _hard("repeated", "print the lines of {f} that occur {q[0]}, each once and sorted | show, sorted, which lines {f} has {q[0]}",
        "sort {f} | uniq {q[1]}", "lines", lambda s, c: text_of(sorted(r for r, n in collections.Counter(_file(s, c)).items() if c["q"][2](n))), "ranked",
        choices={"q": (("more than once", "-d", lambda n: n > 1), ("only once", "-u", lambda n: n == 1))}),
    # Columns of a table.
    _hard("column_then", "print column {i} of the comma-separated file {f}, {q[0]} | show field {i} of {f}, split at commas, {q[0]}",
        "cut -d, -f{i} {f} | {q[1]}", "lines", lambda s, c: text_of(c["q"][2]([r[c["i"] - 1] for r in _cells(s, c)])), "records", choices={"i": (1, 2, 3), "q": THEN[:4]}),
    _hard("column_distinct", "print the different values of column {i} of the comma-separated file {f}, sorted | show field {i} of {f}, split at commas, sorted without duplicates",
        "cut -d, -f{i} {f} | sort -u", "lines", lambda s, c: text_of(sorted({r[c["i"] - 1] for r in _cells(s, c)})), "records", choices={"i": (2, 3)}),
    _hard("column_match", "print column {k4} of the lines of the comma-separated file {f} that contain {w} | show field {k4}, split at commas, of the lines with {w} in {f}",
        "grep {w} {f} | cut -d, -f{k4}", "lines", lambda s, c: text_of(r[c["k4"] - 1] for r in _cells(s, c) if c["w"] in r), "records"),
    _hard("column_count", "count the lines of the comma-separated file {f} with {w} in column {i} | print how many lines of {f}, split at commas, have {w} as field {i}",
        "cut -d, -f{i} {f} | grep -c {w}", "number", lambda s, c: str(sum(r[c["i"] - 1] == c["w"] for r in _cells(s, c))), "records", choices={"i": (2,)}, shorter=lambda s, c: (str(sum(c["w"] in r for r in _file(s, c))),)),
    _hard("column_tally", "print how often each value of column {i} of the comma-separated file {f} occurs, count first, sorted by value | show the count and value of field {i} of {f}, split at commas, by value",
        "cut -d, -f{i} {f} | sort | uniq -c", "columns", lambda s, c: text_of(_counted(sorted(r[c["i"] - 1] for r in _cells(s, c)))), "records", choices={"i": (2, 3)}),
    _hard("column_ends", "print the {m} lines of the comma-separated file {f} with the {q[0]} numbers in column 4, {q[0]} first | show the {m} lines of {f} whose field 4, split at commas, is {q[0]}, {q[0]} first",
        "sort -t, -k4 {q[1]} {f} | head -n {m}", "lines", lambda s, c: text_of(sorted(_file(s, c), key=lambda r: int(r.split(",")[3]), reverse=c["q"][0] == "largest")[:c["m"]]), "records",
        choices={"m": (2, 3, 4), "q": (("largest", "-nr"), ("smallest", "-n"))}),
    # Numbers.
    _hard("number_ends", "print the {m} {q[0]} numbers in {f}, {q[0]} first | show the {m} {q[0]} of the numbers in {f}, starting with the {q[0]}",
        "{q[1]} {f} | head -n {m}", "lines", lambda s, c: text_of(c["q"][2](_file(s, c))[:c["m"]]), "numbers", choices={"q": _SIZES, "m": (2, 3, 4)}),
    _hard("number_filter", "print the numbers in {f} {o[0]}, {q[0]} first | show the numbers {o[0]} of {f}, starting with the {q[0]}",
        "awk '$1 {o[1]}' {f} | {q[1]}", "lines", lambda s, c: text_of(c["q"][2]([r for r in _file(s, c) if c["o"][2](int(r), c)])), "numbers", choices={"q": _SIZES, "o": _OVER, "m": range(40, 200, 5)}),
    _hard("number_sum", "print the sum of the numbers in {f} {o[0]} | add up the numbers {o[0]} in {f} and show the sum",
        "awk '$1 {o[1]} {{s += $1}} END {{print s}}' {f}", "number", lambda s, c: str(sum(int(r) for r in _file(s, c) if c["o"][2](int(r), c))), "numbers", choices={"o": _OVER, "m": range(40, 200, 5)}),
    # Folders.
    _hard("folder_ends", "print the {z[0]} {m} names in the folder {d}, in {q[0]} order | show the {z[0]} {m} of the file names in {d}, in {q[0]} order",
        "{q[1]} {d} | {z[1]} -n {m}", "lines", lambda s, c: text_of(c["z"][2](c["q"][2](inside(s, c["d"])), c["m"])),
        choices={"z": _ENDS, "m": (1, 2), "q": (("alphabetical", "ls", sorted), ("reverse alphabetical", "ls -r", lambda rows: sorted(rows, reverse=True)))}),
    _hard("folder_count", "count the files in the folder {d} that end in .{x} | print how many .{x} files are in the folder {d}",
        "ls {d} | grep -c {x}$", "number", lambda s, c: str(sum(p.endswith("." + c["x"]) for p in inside(s, c["d"])))),
    _hard("folders_count", "count the .{x} files in the folders {d} and {e} | print how many files in {d} and {e} end in .{x}",
        "find {d} {e} -name '*.{x}' | wc -l", "number", lambda s, c: str(sum(p.startswith((c["d"] + "/", c["e"] + "/")) and p.endswith("." + c["x"]) for p in s))),
    # Held out.
    _new("match_words", "count the words in the lines of {f} {p[0]} | print how many words the lines of {f} {p[0]} have together",
        "{p[1]} {f} | wc -w", "number", lambda s, c: str(sum(len(r.split()) for r in _kept(s, c))), "dense", choices={"p": FILTER}),
    _new("two_then", "print {f} and then {g}, together {q[0]} | show the lines of {f} followed by those of {g}, all {q[0]}",
        "cat {f} {g} | {q[1]}", "lines", lambda s, c: text_of(c["q"][2](_file(s, c) + _file(s, c, "g"))), "dense", choices={"q": THEN}),
    _new("range", "print lines {m[0]} to {m[1]} of {f} | show {f} from line number {m[0]} up to line number {m[1]}",
        "head -n {m[1]} {f} | tail -n +{m[0]}", "lines", lambda s, c: text_of(_file(s, c)[int(c["m"][0]) - 1:int(c["m"][1])]), "dense", choices={"m": [(low, high) for low in "23" for high in "4567"]}),
    _new("most_common", "print the {q[0]} line of {f} after its count | show the {q[0]} of the lines of {f}, with its count first",
        "sort {f} | uniq -c | sort -n | {q[1]} -n 1", "columns", lambda s, c: c["q"][2](_counted(_file(s, c)), key=lambda r: int(r.split()[0])), "ranked",
        choices={"q": (("most frequent", "tail", max), ("rarest", "head", min))}),
    _new("column_kinds", "count the different values of column {i} of the comma-separated file {f} | print how many distinct values field {i} of {f}, split at commas, has",
        "cut -d, -f{i} {f} | sort -u | wc -l", "number", lambda s, c: str(len({r[c["i"] - 1] for r in _cells(s, c)})), "records", choices={"i": (2, 3)}),
    _new("column_sum", "print the sum of column 4 of the comma-separated file {f} where column 2 is {w} | add up field 4, split at commas, of the lines of {f} with {w} as field 2",
        "awk -F, '$2 == \"{w}\" {{s += $4}} END {{print s}}' {f}", "number", lambda s, c: str(sum(int(r[3]) for r in _cells(s, c) if r[1] == c["w"])), "records"),
    _new("number_count", "count the numbers in {f} {o[0]} | print how many of the numbers in {f} are {o[0]}",
        "awk '$1 {o[1]}' {f} | wc -l", "number", lambda s, c: str(sum(c["o"][2](int(r), c) for r in _file(s, c))), "numbers", choices={"o": _OVER, "m": range(40, 200, 5)}),
    _new("ends_then", "print the {z[0]} {m} lines of {f}, {q[0]} | show only the {z[0]} {m} lines of {f}, {q[0]}",
        "{z[1]} -n {m} {f} | {q[1]}", "lines", lambda s, c: text_of(c["q"][2](c["z"][2](_file(s, c), c["m"]))), "dense", choices={"q": THEN, "z": _ENDS, "m": _MORE}),
    _new("count_both", "count the lines of {f} {p[0]} and contain {v} | print how many lines of {f} are lines {p[0]} and have {v}",
        "{p[1]} {f} | grep -c {v}", "number", lambda s, c: str(sum(c["v"] in r for r in _kept(s, c))), "dense", choices={"p": FILTER}, shorter=lambda s, c: (str(len(_kept(s, c))), str(sum(c["v"] in r for r in _file(s, c))))),
    _new("column_above", "print column {i} of the lines of the comma-separated file {f} whose column 4 is {o[0]} | show field {i}, split at commas, of the lines of {f} with field 4 {o[0]}",
        "awk -F, '$4 {o[1]} {{print ${i}}}' {f}", "lines", lambda s, c: text_of(r[c["i"] - 1] for r in _cells(s, c) if c["o"][2](int(r[3]), c)), "records", choices={"i": (1, 2, 3), "m": range(25, 80), "o": _OVER}),
    _new("number_nth", "print the {m[0]} {q[0]} number in {f} | show the {m[0]} {q[0]} of the numbers in {f}",
        "{q[1]} {f} | sed -n {m[1]}p", "lines", lambda s, c: c["q"][2](_file(s, c))[int(c["m"][1]) - 1], "numbers", choices={"q": _SIZES, "m": (("second", "2"), ("third", "3"), ("fourth", "4"))}, shorter=lambda s, c: _file(s, c)[int(c["m"][1]) - 1:][:1]),
    _new("folder_matches", "count the lines {p[0]} in all files in {d} together | print how many lines of the files in {d} are lines {p[0]}",
        "cat {d}/* | {p[1]} | wc -l", "number", lambda s, c: str(sum(c["p"][2](r, c) for p, t in s.items() if p.startswith(c["d"] + "/") for r in lines_of(t))), choices={"p": FILTER}),
)
# fmt: on
