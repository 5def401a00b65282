"""More families of shell commands that `train` leaves out.

Each is a new flag, argument or composition of what the trained families use.
"""

# ruff: noqa: E501 (the families read best as a table)

from cycleqd_jax.tasks.pocket.shell_files import inside, lines_of, moved, text_of, top
from cycleqd_jax.tasks.pocket.shell_templates import ShellTemplate

# fmt: off
HELD_OUT = (
    # Print, count, search.
    ShellTemplate("from_line", "print {f} from line {k} to the end | show all lines of {f} from line number {k} on",
        "tail -n +{k} {f}", "lines", lambda s, c: text_of(lines_of(s[c["f"]])[c["k"] - 1:]), held_out=True),
    ShellTemplate("last_word", "print the last word of each line of {f} | show the last word of every line of {f}",
        "awk '{{print $NF}}' {f}", "lines", lambda s, c: text_of(r.split()[-1] for r in lines_of(s[c["f"]])), held_out=True),
    ShellTemplate("count_characters", "count the characters of {f} | print the number of characters in {f}",
        "wc -c < {f}", "number", lambda s, c: str(len(s[c["f"]])), held_out=True),
    ShellTemplate("count_without", "count the lines of {f} that do not contain {w} | print how many lines of {f} lack {w}",
        "grep -vc {w} {f}", "number", lambda s, c: str(sum(c["w"] not in r for r in lines_of(s[c["f"]]))), held_out=True),
    ShellTemplate("grep_either", "print the lines of {f} that contain {w} or {v} | show the lines with {w} or {v} in {f}",
        "grep -e {w} -e {v} {f}", "lines", lambda s, c: text_of(r for r in lines_of(s[c["f"]]) if c["w"] in r or c["v"] in r), held_out=True),
    ShellTemplate("grep_absent", "print the names of the .{x} files here that do not contain {w} | list which .{x} files here lack {w}",
        "grep -L {w} *.{x}", "set", lambda s, c: text_of(p for p in top(s, c["x"]) if c["w"] not in s[p]), held_out=True),
    ShellTemplate("grep_folder", "print the paths of the files in {d} that contain {w} | list which files in the folder {d} contain {w}, with their paths",
        "grep -l {w} {d}/*", "set", lambda s, c: text_of(p for p in s if p.startswith(c["d"] + "/") and c["w"] in s[p]), held_out=True),
    # Sort and transform.
    ShellTemplate("sort_down", "print the lines of {f} sorted in reverse | show {f} in reverse alphabetical order",
        "sort -r {f}", "lines", lambda s, c: text_of(sorted(lines_of(s[c["f"]]), reverse=True)), held_out=True),
    ShellTemplate("smallest", "print the smallest number in {f} | show the lowest of the numbers in {f}",
        "sort -n {f} | head -n 1", "lines", lambda s, c: min(lines_of(s[c["f"]]), key=int), "numbers", held_out=True),
    ShellTemplate("lower", "print {f} in lower case | show {f} in small letters",
        "tr A-Z a-z < {f}", "lines", lambda s, c: s[c["f"]].lower(), "mixed", held_out=True),
    ShellTemplate("print_substituted", "print {f} with every {w} replaced by {v} | show {f} with each {w} changed to {v}, leaving the file as it is",
        "sed 's/{w}/{v}/g' {f}", "lines", lambda s, c: s[c["f"]].replace(c["w"], c["v"]), held_out=True),
    # Make, move, copy.
    ShellTemplate("mkdir_two", "create two folders named {n} and {v} | make the new directories {n} and {v}",
        "mkdir {n} {v}", "files", lambda s, c: {**s, c["n"] + "/": "", c["v"] + "/": ""}, held_out=True),
    ShellTemplate("move_two", "move {f} and {g} into the folder {d} | put the files {f} and {g} into {d}, not keeping them here",
        "mv {f} {g} {d}", "files", lambda s, c: moved(s, {p: f"{c['d']}/{p}" for p in (c["f"], c["g"])}), held_out=True),
    ShellTemplate("move_out", "move all .{x} files in {d} here | move every file in {d} ending in .{x} to the current folder",
        "mv {d}/*.{x} .", "files", lambda s, c: moved(s, {f"{c['d']}/{p}": p for p in inside(s, c["d"]) if p.endswith("." + c["x"])}), held_out=True),
    # Write.
    ShellTemplate("save_matches", "write the lines of {f} that contain {w} to {h} | save the lines with {w} in {f} as {h}",
        "grep {w} {f} > {h}", "files", lambda s, c: {**s, c["h"]: text_of(r for r in lines_of(s[c["f"]]) if c["w"] in r)}, held_out=True),
    ShellTemplate("append_file", "add the contents of {g} to the end of {f} | append the file {g} to {f}",
        "cat {g} >> {f}", "files", lambda s, c: {**s, c["f"]: s[c["f"]] + s[c["g"]]}, held_out=True),
)
# fmt: on
