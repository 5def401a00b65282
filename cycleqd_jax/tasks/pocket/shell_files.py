"""The folders that shell commands work in, and what commands do to them, in Python.

A folder is `Files`: path -> content; an empty folder in it is "path/" -> "". The
content of its files is of one kind: "words", "mixed" (upper and lower case), "numbers",
"table" (commas between columns), "repeated" (lines); or, with more lines that have what
is asked for, "dense" (words), "records" (a table), "ranked" (lines, with different
counts).
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
    words = (constants["w"], constants["v"])
    return {path: _content(*words, content, holds[path], rng) for path in paths}


def _content(
    word: str, second: str, content: str, holds: bool, rng: random.Random
) -> str:
    """Seven to eleven lines or so; `holds` says whether some of them hold `word`."""
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
        case "ranked":
            # By alphabet, so that neither the first nor the last is an extreme.
            counts = rng.choice(
                ((2, 5, 1, 3), (3, 1, 5, 2), (2, 1, 4, 3), (3, 4, 1, 2))
            )
            words = sorted(rng.sample(_WORDS, len(counts)))
            pairs = zip(words, counts, strict=True)
            lines = [word for word, count in pairs for _ in range(count)]
        case "records":
            names = rng.sample([w for w in others if w != second], size + 5)
            kinds = [word, second, word, second, *names[:2]] if holds else names[:3]
            thirds = [*names[2:4], word if holds else names[4]]
            numbers = rng.sample(range(10, 100), size)
            lines = [
                f"{name},{rng.choice(kinds)},{rng.choice(thirds)},{number}"
                for name, number in zip(names[5:], numbers, strict=True)
            ]
        case "dense":
            few = rng.sample([w for w in others if w != second], 8)
            rows = [rng.sample(few, rng.randint(2, 3)) for _ in range(size + 2)]
            for i, row in enumerate(rows):  # the word first, last or between, with
                if holds and (i < 6 or (i > 7 and rng.random() < 0.3)):  # the second
                    row.insert((0, 9, 1)[i % 3], word)  # or without
                if i in (3, 4, 5, 6, 7) or (i > 7 and rng.random() < 0.3):
                    row.insert(1, second)
            lines = [" ".join(row) for row in rows]
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


def with_folder(files: Files, folder: str) -> Files:
    """The folder with a folder in it, which stays when its last file has gone."""
    return files if inside(files, folder) else {**files, f"{folder}/": ""}


def top(files: Files, extension: str) -> list[str]:
    """Files with this extension that are in no folder."""
    return [p for p in files if "/" not in p and p.endswith(f".{extension}")]


def inside(files: Files, folder: str) -> list[str]:
    """Names of the files in a folder."""
    return [p.partition("/")[2] for p in files if p.startswith(f"{folder}/")]
