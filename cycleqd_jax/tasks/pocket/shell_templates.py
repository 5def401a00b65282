"""Families of shell commands in a small folder.

What a right command prints or leaves behind is computed here in Python, without a
shell. The answer's process never sees it. In a template, `{f}` and `{g}` are files,
`{d}` and `{e}` folders, `{h}` and `{n}` a file and a folder that do not exist yet, `{x}`
is an extension, `{w}` and `{v}` are words, `{k}` and `{i}` numbers.
"""

# ruff: noqa: E501 (the families read best as a table)

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cycleqd_jax.tasks.pocket.generator import Draft
from cycleqd_jax.tasks.pocket.shell_files import (
    Files,
    draw_constants,
    draw_files,
    inside,
    lines_of,
    moved,
    text_of,
    top,
    without,
)

_MAX_DRAWS = 20


@dataclasses.dataclass(frozen=True)
class ShellTemplate:
    """One family of commands.

    Attributes:
      id: unique.
      demands: wordings after "Write one bash command:", separated by " | ".
      command: a right command.
      judged_by: "lines" or "set" (printed lines, in order or in any order), "columns"
        (printed lines, with any blanks between words), "number" (a printed number,
        perhaps followed by a file's name) or "files" (the folder's files afterwards).
      expected: makes the right text or files from files and constants.
      content: of the files; see `shell_files`.
      held_out: whether `train` leaves it out.
      choices: further constants: name -> choices. A choice may be a wording, its code
        and a function for `expected`: `{p[0]}` and `{p[1]}` of the constant `p`.
      shorter: makes what the command prints without one of its parts, from files and
        constants; the right text must be another.
    """

    id: str
    demands: str
    command: str
    judged_by: str
    expected: Callable[[Files, Mapping[str, Any]], str | Files]
    content: str = "words"
    held_out: bool = False
    choices: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    shorter: Callable[[Files, Mapping[str, Any]], Sequence[str]] | None = None

    def draw(self, rng: random.Random) -> Draft:
        """One random problem of the family."""
        constants = draw_constants(rng)
        constants |= {name: rng.choice(of) for name, of in self.choices.items()}
        fields = dict(constants)
        for name, value in constants.items():
            if isinstance(value, tuple):
                fields[name] = tuple(part.format(**fields) for part in value[:2])
        answer = self.command.format(**fields)
        demand = rng.choice(self.demands.split(" | ")).format(**fields)

        def make_data(data_rng: random.Random) -> Mapping[str, Any]:
            for _ in range(_MAX_DRAWS):
                files = draw_files(constants, self.content, data_rng)
                expected = self.expected(dict(files), constants)
                less = self.shorter(files, constants) if self.shorter else ()
                if expected not in ("", "0", files, *less):  # nor doing nothing
                    break
            return {"files": files, "judged_by": self.judged_by, "expected": expected}

        return Draft(f"Write one bash command: {demand}.", answer, make_data)


# fmt: off
TEMPLATES = (
    # Print parts of a file.
    ShellTemplate("head", "print the first {k} lines of {f} | show the top {k} lines of {f}",
        "head -n {k} {f}", "lines", lambda s, c: text_of(lines_of(s[c["f"]])[:c["k"]])),
    ShellTemplate("tail", "print the last {k} lines of {f} | show the bottom {k} lines of {f}",
        "tail -n {k} {f}", "lines", lambda s, c: text_of(lines_of(s[c["f"]])[-c["k"]:])),
    ShellTemplate("line", "print only line {k} of {f} | show only line number {k} of {f}",
        "sed -n '{k}p' {f}", "lines", lambda s, c: lines_of(s[c["f"]])[c["k"] - 1]),
    ShellTemplate("cat_two", "print {f} followed by {g} | show the contents of {f} and then of {g}",
        "cat {f} {g}", "lines", lambda s, c: s[c["f"]] + s[c["g"]]),
    ShellTemplate("column", "print column {k4} of the comma-separated file {f} | show field {k4} of {f}, split at commas",
        "cut -d, -f{k4} {f}", "lines", lambda s, c: text_of(r.split(",")[c["k4"] - 1] for r in lines_of(s[c["f"]])), "table"),
    ShellTemplate("word", "print word {i} of each line of {f} | show the word number {i} of every line of {f}",
        "awk '{{print ${i}}}' {f}", "lines", lambda s, c: text_of(r.split()[c["i"] - 1] for r in lines_of(s[c["f"]]))),
    # Count.
    ShellTemplate("count_lines", "count the lines of {f} | print the number of lines in {f}",
        "wc -l < {f}", "number", lambda s, c: str(len(lines_of(s[c["f"]])))),
    ShellTemplate("count_words", "count the words of {f} | print the number of words in {f}",
        "wc -w < {f}", "number", lambda s, c: str(len(s[c["f"]].split())), held_out=True),
    ShellTemplate("count_matches", "count the lines of {f} that contain {w} | print how many lines of {f} contain {w}",
        "grep -c {w} {f}", "number", lambda s, c: str(sum(c["w"] in r for r in lines_of(s[c["f"]])))),
    ShellTemplate("count_files", "count the files in the folder {d} | print how many files are in the folder {d}",
        "ls {d} | wc -l", "number", lambda s, c: str(len(inside(s, c["d"])))),
    # Search.
    ShellTemplate("grep", "print the lines of {f} that contain {w} | show the lines with {w} in {f}",
        "grep {w} {f}", "lines", lambda s, c: text_of(r for r in lines_of(s[c["f"]]) if c["w"] in r)),
    ShellTemplate("grep_not", "print the lines of {f} that do not contain {w} | show the lines without {w} in {f}",
        "grep -v {w} {f}", "lines", lambda s, c: text_of(r for r in lines_of(s[c["f"]]) if c["w"] not in r)),
    ShellTemplate("grep_case", "print the lines of {f} that contain {w} in any case | show the lines with {w} in {f}, ignoring case",
        "grep -i {w} {f}", "lines", lambda s, c: text_of(r for r in lines_of(s[c["f"]]) if c["w"] in r.lower()), "mixed"),
    ShellTemplate("grep_start", "print the lines of {f} that start with {w} | show the lines beginning with {w} in {f}",
        "grep ^{w} {f}", "lines", lambda s, c: text_of(r for r in lines_of(s[c["f"]]) if r.startswith(c["w"]))),
    ShellTemplate("grep_end", "print the lines of {f} that end with {w} | show the lines ending with {w} in {f}",
        "grep {w}$ {f}", "lines", lambda s, c: text_of(r for r in lines_of(s[c["f"]]) if r.endswith(c["w"])), held_out=True),
    ShellTemplate("grep_number", "print the lines of {f} with {w}, each after its line number and a colon | show the lines with {w} in {f} as number:line",
        "grep -n {w} {f}", "lines", lambda s, c: text_of(f"{i}:{r}" for i, r in enumerate(lines_of(s[c["f"]]), 1) if c["w"] in r)),
    ShellTemplate("grep_files", "print the names of the .{x} files here that contain {w} | list which .{x} files here contain {w}",
        "grep -l {w} *.{x}", "set", lambda s, c: text_of(p for p in top(s, c["x"]) if c["w"] in s[p])),
    ShellTemplate("find", "print the paths of all .{x} files in {d} and {e} | find every file ending in .{x} in {d} and {e}",
        "find {d} {e} -name '*.{x}'", "set", lambda s, c: text_of(p for p in s if p.startswith((c["d"] + "/", c["e"] + "/")) and p.endswith("." + c["x"]))),
    ShellTemplate("list", "list the names of the files in the folder {d} | print the names of all files in the folder {d}",
        "ls {d}", "set", lambda s, c: text_of(inside(s, c["d"]))),
    # Sort and transform.
    ShellTemplate("sort", "print the lines of {f} sorted | show {f} in alphabetical order",
        "sort {f}", "lines", lambda s, c: text_of(sorted(lines_of(s[c["f"]])))),
    ShellTemplate("sort_numbers", "print the numbers in {f} from smallest to largest | show {f} in numeric order",
        "sort -n {f}", "lines", lambda s, c: text_of(sorted(lines_of(s[c["f"]]), key=int)), "numbers"),
    ShellTemplate("sort_numbers_down", "print the numbers in {f} from largest to smallest | show {f} in descending numeric order",
        "sort -nr {f}", "lines", lambda s, c: text_of(sorted(lines_of(s[c["f"]]), key=int, reverse=True)), "numbers", held_out=True),
    ShellTemplate("largest", "print the largest number in {f} | show the biggest of the numbers in {f}",
        "sort -n {f} | tail -n 1", "lines", lambda s, c: max(lines_of(s[c["f"]]), key=int), "numbers"),
    ShellTemplate("distinct", "print the distinct lines of {f}, sorted | show {f} sorted, without duplicate lines",
        "sort -u {f}", "lines", lambda s, c: text_of(sorted(set(lines_of(s[c["f"]])))), "repeated"),
    ShellTemplate("backwards", "print {f} with the last line first | show the lines of {f} from last to first",
        "tac {f}", "lines", lambda s, c: text_of(lines_of(s[c["f"]])[::-1])),
    ShellTemplate("mirrored", "print {f} with the characters of each line reversed | show each line of {f} spelled backwards",
        "rev {f}", "lines", lambda s, c: text_of(r[::-1] for r in lines_of(s[c["f"]]))),
    ShellTemplate("upper", "print {f} in upper case | show {f} in capital letters",
        "tr a-z A-Z < {f}", "lines", lambda s, c: s[c["f"]].upper()),
    # Make and remove.
    ShellTemplate("mkdir", "create a folder named {n} | make a new directory {n}",
        "mkdir {n}", "files", lambda s, c: {**s, c["n"] + "/": ""}),
    ShellTemplate("mkdir_nested", "create the folder {n}/{v} and its parent {n} | make a new directory {n} with a directory {v} in it",
        "mkdir -p {n}/{v}", "files", lambda s, c: {**s, f"{c['n']}/{c['v']}/": ""}),
    ShellTemplate("touch", "create an empty file {h} | make a new empty file named {h}",
        "touch {h}", "files", lambda s, c: {**s, c["h"]: ""}),
    ShellTemplate("remove", "delete the file {f} | remove {f}",
        "rm {f}", "files", lambda s, c: without(s, c["f"])),
    ShellTemplate("remove_two", "delete the files {f} and {g} | remove {f} and {g}",
        "rm {f} {g}", "files", lambda s, c: without(s, c["f"], c["g"]), held_out=True),
    ShellTemplate("remove_extension", "delete the files in {d} that end in .{x} | remove all .{x} files in the folder {d}",
        "rm {d}/*.{x}", "files", lambda s, c: without(s, *(p for p in s if p.startswith(c["d"] + "/") and p.endswith("." + c["x"])))),
    ShellTemplate("remove_folder", "delete the folder {d} and its files | remove the directory {d} with all its contents",
        "rm -r {d}", "files", lambda s, c: {p: t for p, t in s.items() if not p.startswith(c["d"] + "/")}),
    ShellTemplate("empty", "make the file {f} empty | delete the contents of {f} but keep the file",
        "> {f}", "files", lambda s, c: {**s, c["f"]: ""}),
    # Move and copy.
    ShellTemplate("rename", "rename {f} to {h} | change the name of {f} to {h}",
        "mv {f} {h}", "files", lambda s, c: moved(s, {c["f"]: c["h"]})),
    ShellTemplate("move", "move {f} into the folder {d} | put the file {f} into {d}, not keeping it here",
        "mv {f} {d}", "files", lambda s, c: moved(s, {c["f"]: f"{c['d']}/{c['f']}"})),
    ShellTemplate("move_extension", "move all .{x} files here into {d} | move every file here ending in .{x} into {d}",
        "mv *.{x} {d}", "files", lambda s, c: moved(s, {p: f"{c['d']}/{p}" for p in top(s, c["x"])})),
    ShellTemplate("rename_folder", "rename the folder {d} to {n} | change the name of the folder {d} to {n}",
        "mv {d} {n}", "files", lambda s, c: moved(s, {f"{c['d']}/{p}": f"{c['n']}/{p}" for p in inside(s, c["d"])}), held_out=True),
    ShellTemplate("copy", "copy {f} to {h} | make a copy of {f} named {h}",
        "cp {f} {h}", "files", lambda s, c: {**s, c["h"]: s[c["f"]]}),
    ShellTemplate("copy_into", "copy {f} into the folder {d} | put a copy of {f} into {d}",
        "cp {f} {d}", "files", lambda s, c: {**s, f"{c['d']}/{c['f']}": s[c["f"]]}),
    ShellTemplate("copy_folder", "copy the folder {d} to {n} | make a copy of the folder {d} named {n}",
        "cp -r {d} {n}", "files", lambda s, c: {**s, **{f"{c['n']}/{p}": s[f"{c['d']}/{p}"] for p in inside(s, c["d"])}}),
    # Write.
    ShellTemplate("write", "write the word {w} to the new file {h} | create {h} with the line {w}",
        "echo {w} > {h}", "files", lambda s, c: {**s, c["h"]: c["w"] + "\n"}),
    ShellTemplate("append", "add the line {w} to the end of {f} | append the line {w} to {f}",
        "echo {w} >> {f}", "files", lambda s, c: {**s, c["f"]: s[c["f"]] + c["w"] + "\n"}),
    ShellTemplate("substitute", "replace every {w} by {v} in the file {f} | change each {w} in the file {f} to {v}",
        "sed -i 's/{w}/{v}/g' {f}", "files", lambda s, c: {**s, c["f"]: s[c["f"]].replace(c["w"], c["v"])}),
    ShellTemplate("delete_lines", "delete the lines with {w} from the file {f} | remove the lines containing {w} from the file {f}",
        "sed -i '/{w}/d' {f}", "files", lambda s, c: {**s, c["f"]: text_of(r for r in lines_of(s[c["f"]]) if c["w"] not in r)}),
    ShellTemplate("save_sorted", "write the sorted lines of {f} to {h} | save {f} in alphabetical order as {h}",
        "sort {f} > {h}", "files", lambda s, c: {**s, c["h"]: text_of(sorted(lines_of(s[c["f"]])))}),
    ShellTemplate("save_head", "write the first {k} lines of {f} to {h} | save the top {k} lines of {f} as {h}",
        "head -n {k} {f} > {h}", "files", lambda s, c: {**s, c["h"]: text_of(lines_of(s[c["f"]])[:c["k"]])}, held_out=True),
)
# fmt: on
