"""Families of shell commands that change a folder: loops, pipelines into files, rows.

Constants are a wording, its command and what that does to lines, in Python.
"""

# ruff: noqa: E501 (the families read best as a table)

import functools

from cycleqd_jax.tasks.pocket.shell_files import (
    lines_of,
    moved,
    text_of,
    top,
    with_folder,
    without,
)
from cycleqd_jax.tasks.pocket.shell_hard_pipelines import FILTER, THEN
from cycleqd_jax.tasks.pocket.shell_templates import ShellTemplate

_hard = ShellTemplate
_new = functools.partial(ShellTemplate, held_out=True)

_SUFFIX = "bak old tmp orig save copy keep done text part".split()
_PREFIX = "new my old x the a our best last this".split()
_ENDS = (("first", "head", slice(0, 1)), ("last", "tail", slice(-1, None)))


def _in(s, c, folder="d"):
    return [p for p in s if p.startswith(c[folder] + "/") and p.endswith("." + c["x"])]


def _kept(s, c):
    return text_of(r for r in lines_of(s[c["f"]]) if c["p"][2](r, c))


def _having(paths, s, c):
    return [p for p in paths if c["w"] in s[p]]


# fmt: off
LOOPS = (
    # Pipelines into files.
    _hard("save_filter_then", "write the lines of {f} {p[0]}, {q[0]}, to {h} | save those lines of {f} {p[0]} as {h}, {q[0]}",
        "{p[1]} {f} | {q[1]} > {h}", "files", lambda s, c: {**s, c["h"]: text_of(c["q"][2](lines_of(_kept(s, c))))}, "dense", choices={"p": FILTER, "q": THEN}),
    _hard("append_filter", "add the lines of {f} {p[0]} to the end of {g} | append those lines of {f} {p[0]} to the file {g}",
        "{p[1]} {f} >> {g}", "files", lambda s, c: {**s, c["g"]: s[c["g"]] + _kept(s, c)}, "dense", choices={"p": FILTER}),
    _hard("save_count", "write the number of lines of {f} {p[0]} to {h} | save how many lines of {f} are lines {p[0]} as {h}",
        "{p[1]} {f} | wc -l > {h}", "files", lambda s, c: {**s, c["h"]: f"{len(lines_of(_kept(s, c)))}\n"}, "dense", choices={"p": FILTER}),
    # Files found by their contents.
    _hard("move_matches", "move the .{x} files here that contain {w} into {d} | move every file here that ends in .{x} and has {w} in it into {d}",
        "mv $(grep -l {w} *.{x}) {d}", "files", lambda s, c: moved(s, {p: f"{c['d']}/{p}" for p in _having(top(s, c["x"]), s, c)})),
    _hard("copy_matches", "copy the .{x} files here that contain {w} into {d} | copy every file here that ends in .{x} and has {w} in it into {d}",
        "cp $(grep -l {w} *.{x}) {d}", "files", lambda s, c: {**s, **{f"{c['d']}/{p}": s[p] for p in _having(top(s, c["x"]), s, c)}}),
    _hard("remove_matches", "delete the files in {d} that contain {w} | remove every file in the folder {d} with {w} in it",
        "rm $(grep -l {w} {d}/*)", "files", lambda s, c: with_folder(without(s, *_having([p for p in s if p.startswith(c["d"] + "/")], s, c)), c["d"])),
    # Loops over files.
    _hard("loop_suffix", "add .{b} to the name of every .{x} file here | rename each file here that ends in .{x} so that .{b} follows its name",
        "for p in *.{x}; do mv $p $p.{b}; done", "files", lambda s, c: moved(s, {p: f"{p}.{c['b']}" for p in top(s, c["x"])}), choices={"b": _SUFFIX}),
    _hard("loop_suffix_in", "add .{b} to the name of every .{x} file in {d} | rename each file in {d} that ends in .{x} so that .{b} follows its name",
        "for p in {d}/*.{x}; do mv $p $p.{b}; done", "files", lambda s, c: moved(s, {p: f"{p}.{c['b']}" for p in _in(s, c)}), choices={"b": _SUFFIX}),
    _hard("loop_copy", "copy every .{x} file here to its name with .{b} added | make a copy of each file here that ends in .{x}, named like it with .{b} added",
        "for p in *.{x}; do cp $p $p.{b}; done", "files", lambda s, c: {**s, **{f"{p}.{c['b']}": s[p] for p in top(s, c["x"])}}, choices={"b": _SUFFIX}),
    _hard("loop_prefix", "put {b}_ before the name of every .{x} file here | rename each file here that ends in .{x} so that its name begins with {b}_",
        "for p in *.{x}; do mv $p {b}_$p; done", "files", lambda s, c: moved(s, {p: f"{c['b']}_{p}" for p in top(s, c["x"])}), choices={"b": _PREFIX}),
    _hard("loop_extension", "change the ending .{x} of every such file here to .{b} | rename each file here that ends in .{x} so that it ends in .{b} instead",
        "for p in *.{x}; do mv $p ${{p%.{x}}}.{b}; done", "files", lambda s, c: moved(s, {p: p.removesuffix(c["x"]) + c["b"] for p in top(s, c["x"])}), choices={"b": _SUFFIX}),
    _hard("loop_ends", "print the {z[0]} line of every .{x} file in {d} | show only the {z[0]} line of each file in {d} that ends in .{x}",
        "for p in {d}/*.{x}; do {z[1]} -n 1 $p; done", "lines", lambda s, c: text_of(r for p in sorted(_in(s, c)) for r in lines_of(s[p])[c["z"][2]]), choices={"z": _ENDS}),
    # Commands in a row.
    _hard("mkdir_move", "create the folder {n} and move all .{x} files here into it | make a new directory {n} and put every .{x} file here into it",
        "mkdir {n} && mv *.{x} {n}", "files", lambda s, c: moved(s, {p: f"{c['n']}/{p}" for p in top(s, c["x"])})),
    # Held out.
    _new("save_substituted", "write the lines of {f} {p[0]} to {h}, with each {w} replaced by {v} | save those lines of {f} {p[0]} as {h}, every {w} changed to {v}",
        "{p[1]} {f} | sed 's/{w}/{v}/g' > {h}", "files", lambda s, c: {**s, c["h"]: _kept(s, c).replace(c["w"], c["v"])}, "dense", choices={"p": (FILTER[0], *FILTER[2:])}),
    _new("rename_matches", "put the files in {d} that do not contain {w} into the new folder {n} | make the folder {n} and move every file in {d} without {w} into it",
        "mkdir {n} && mv $(grep -L {w} {d}/*) {n}", "files", lambda s, c: with_folder(moved(s, {p: f"{c['n']}/{p.partition('/')[2]}" for p in s if p.startswith(c["d"] + "/") and c["w"] not in s[p]}), c["d"])),
    _new("loop_prefix_copy", "copy every .{x} file here to its name with {b}_ before it | make a copy of each file here that ends in .{x}, its name beginning with {b}_",
        "for p in *.{x}; do cp $p {b}_$p; done", "files", lambda s, c: {**s, **{f"{c['b']}_{p}": s[p] for p in top(s, c["x"])}}, choices={"b": _PREFIX}),
    _new("loop_delete_lines", "delete the lines with {w} from every .{x} file in {d} | remove the lines containing {w} from each file in {d} that ends in .{x}",
        "for p in {d}/*.{x}; do sed -i '/{w}/d' $p; done", "files", lambda s, c: {**s, **{p: text_of(r for r in lines_of(s[p]) if c["w"] not in r) for p in _in(s, c)}}),
    _new("loop_count", "print the number of lines of every .{x} file in {d} | show how many lines each file in {d} that ends in .{x} has",
        "for p in {d}/*.{x}; do wc -l < $p; done", "lines", lambda s, c: text_of(str(len(lines_of(s[p]))) for p in sorted(_in(s, c)))),
    _new("mkdir_save", "create the folder {n} and write the lines of {f}, {q[0]}, to {n}/{h} | make a new directory {n} and save {f}, {q[0]}, in it as {h}",
        "mkdir {n} && {q[1]} {f} > {n}/{h}", "files", lambda s, c: {**s, f"{c['n']}/{c['h']}": text_of(c["q"][2](lines_of(s[c["f"]])))}, "dense", choices={"q": (*THEN[:3], THEN[4])}),
    _new("swap", "swap the names of {f} and {g} | rename {f} to {g} and {g} to {f}",
        "mv {f} {v} && mv {g} {f} && mv {v} {g}", "files", lambda s, c: moved(s, {c["f"]: c["g"], c["g"]: c["f"]})),
    _new("save_both", "write {f} and then {g}, together {q[0]}, to {h} | save the lines of {f} and {g}, all {q[0]}, as {h}",
        "cat {f} {g} | {q[1]} > {h}", "files", lambda s, c: {**s, c["h"]: text_of(c["q"][2](lines_of(s[c["f"]] + s[c["g"]])))}, "dense", choices={"q": THEN}),
    _new("loop_append", "add the line {v} to the end of every .{x} file in {d} | append the line {v} to each file in {d} that ends in .{x}",
        "for p in {d}/*.{x}; do echo {v} >> $p; done", "files", lambda s, c: {**s, **{p: s[p] + c["v"] + "\n" for p in _in(s, c)}}),
    _new("loop_copy_folder", "copy every .{x} file in {d} into {e} with {b}_ before its name | make a copy of each .{x} file of {d} in {e}, its name beginning with {b}_",
        "cd {d}; for p in *.{x}; do cp $p ../{e}/{b}_$p; done", "files", lambda s, c: {**s, **{f"{c['e']}/{c['b']}_{p.partition('/')[2]}": s[p] for p in _in(s, c)}}, choices={"b": _PREFIX}),
    _new("copy_append", "copy {f} to {h} and add the line {v} to {h} | make {h} a copy of {f} with the line {v} at its end",
        "cp {f} {h} && echo {v} >> {h}", "files", lambda s, c: {**s, c["h"]: s[c["f"]] + c["v"] + "\n"}),
)
# fmt: on
