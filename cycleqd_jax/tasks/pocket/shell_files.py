"""The folders that shell commands work in, and what commands do to them, in Python.

A folder is `Files`: path -> content; an empty folder in it is "path/" -> "".
"""

import random
from collections.abc import Iterable, Mapping
from typing import Any

Files = dict[str, str]

_STEMS = "notes todo data list names words items report plan draft".split()
_EXTENSIONS = "txt csv log md".split()
_FOLDERS = (
    "docs src backup old images music photos tests build cache games videos books "
    "tmp logs maps"
).split()
_INNER_STEMS = "alpha beta gamma delta first second third fourth".split()
_WORDS = (
    "apple lemon mango peach plum grape olive melon tiger zebra horse camel snake "
    "eagle river cloud storm table chair clock"
).split()


def draw_constants(rng: random.Random) -> dict[str, Any]:
    """Names, words and numbers of one problem, by the letters of the templates."""
    stems = rng.sample(_STEMS, 3)
    f, g, h = (f"{stem}.{rng.choice(_EXTENSIONS)}" for stem in stems)
    d, e, n = rng.sample(_FOLDERS, 3)
    w, v = rng.sample(_WORDS, 2)
    k = rng.randint(2, 5)
    x = rng.choice(_EXTENSIONS)
    numbers = {"k": k, "k4": rng.randint(1, 4), "i": rng.randint(2, 3), "x": x}
    return {"f": f, "g": g, "h": h, "d": d, "e": e, "n": n, "w": w, "v": v, **numbers}


def draw_files(constants: Mapping[str, Any], content: str, rng: random.Random) -> Files:
    """A folder with the named files, other files and two folders."""
    taken = {constants[name].partition(".")[0] for name in "fgh"}
    stems = [stem for stem in _STEMS if stem not in taken]
    rng.shuffle(stems)
    x = constants["x"]
    other = rng.choice([extension for extension in _EXTENSIONS if extension != x])
    paths = [constants["f"], constants["g"]]
    paths += [f"{stems.pop()}.{x}", f"{stems.pop()}.{x}", f"{stems.pop()}.{other}"]
    for folder in (constants["d"], constants["e"]):
        names = rng.sample(_INNER_STEMS, rng.randint(2, 7))
        endings = [x, other, *rng.choices((x, other), k=len(names))]
        paths += [f"{folder}/{n}.{end}" for n, end in zip(names, endings, strict=False)]
    holds = {path: rng.random() < 0.6 for path in paths}
    holds |= {constants["f"]: True, paths[2]: True, paths[3]: False}
    return {path: _content(constants["w"], content, holds[path], rng) for path in paths}


def _content(word: str, content: str, holds: bool, rng: random.Random) -> str:
    """Seven to eleven lines; `holds` says whether some of them hold `word`."""
    size = rng.randint(7, 11)
    others = [other for other in _WORDS if other != word]
    match content:
        case "numbers":
            lines = [str(n) for n in rng.sample(range(2, 250), size)]
        case "table":
            lines = [
                ",".join((*rng.sample(_WORDS, 3), str(rng.randint(1, 99))))
                for _ in range(size)
            ]
        case "repeated":
            lines = rng.choices(rng.sample(_WORDS, 6), k=size)
        case _:
            rows = [rng.sample(others, rng.randint(3, 4)) for _ in range(size)]
            if holds:
                for row, place in zip(
                    rows, (0, 9, 1, rng.choice((0, 1, 9))), strict=False
                ):
                    row.insert(place, word)
                rows[2].append(word)  # twice in one line
            if content == "mixed":
                rows = [[rng.choice((w, w.upper())) for w in row] for row in rows]
            lines = [" ".join(row) for row in rows]
    rng.shuffle(lines)
    return text_of(lines)


def lines_of(text: str) -> list[str]:
    """The lines of a file, without their ends."""
    return text.splitlines()


def text_of(lines: Iterable[str]) -> str:
    """A file of these lines."""
    return "".join(f"{line}\n" for line in lines)


def without(files: Files, *gone: str) -> Files:
    """The folder without some of its files."""
    return {path: text for path, text in files.items() if path not in gone}


def moved(files: Files, moves: Mapping[str, str]) -> Files:
    """The folder after moves, old path -> new path."""
    return {moves.get(path, path): text for path, text in files.items()}


def top(files: Files, extension: str) -> list[str]:
    """Files with this extension that are in no folder."""
    return [p for p in files if "/" not in p and p.endswith(f".{extension}")]


def inside(files: Files, folder: str) -> list[str]:
    """Names of the files in a folder."""
    return [p.partition("/")[2] for p in files if p.startswith(f"{folder}/")]
