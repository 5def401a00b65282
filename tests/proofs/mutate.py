"""Damage for files: bytes, JSON, YAML and safetensors headers."""

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

import yaml

DEEP = 3000
NUMBERS = (0, -1, 1, 2**31, 2**32, 2**63, -(2**63), 10**7, 10**30, -(10**400), 0.5,
           1.5, 1e308, -1e308, -0.0, float("inf"), float("-inf"), float("nan"), 1e-6,
           1e-300, 1e-320)  # fmt: skip
PATHS = ("~", "~/x", "~nobody-here/x", ".", "..", "/", "//", "/dev/null", "/dev/full",
         "/proc/self/mem", "/proc/self/fd/0", "/dev/null/x", "a/" * 500, "b" * 300,
         "a\nb", "a\x1b[31mb", "$HOME", "${HOME}/x", "a b", "*", "?", "-x", "--config",
         "file:///x", "https://x", "org/name", "org/name@v1", "package:x/y.gguf",
         "ä/日本", "e\u0301", "\udce4", "\ud83d", ".hidden", "x.gguf",
         "x.jsonl")  # fmt: skip
TEXTS = ("", " ", "\x00", "nan", "null", "1e3", "../../etc", "/dev/null", "💥" * 9,
         "a" * 100_000, "\ud7ff", "{{", "%s%n", "import os", "no.such:Thing", "\n\n",
         "\uff21", "\u202e", "true", "-", "os:system", "$x^2$", "$", "[bold]", "[/x]",
         "日本語", "\ud83d", "2024-02-30", "0001-01-01", "a:b:c")  # fmt: skip


def odd_value(rng: random.Random) -> Any:
    """A value that few settings expect; JSON can write it."""
    return rng.choice(
        [
            lambda: rng.choice(NUMBERS),
            lambda: rng.choice(TEXTS),
            lambda: rng.choice([None, True, False, [], {}, [[]], [None], {"": None}]),
            lambda: [rng.choice(NUMBERS) for _ in range(rng.randint(1, 4))],
            lambda: {rng.choice(TEXTS)[:20]: rng.choice(TEXTS)},
            lambda: nested(rng.randint(1, 60)),
            lambda: [0] * 10_000,
        ]
    )()


def odd_like(value: Any, rng: random.Random) -> Any:
    """An extreme of the type that a value has."""
    if isinstance(value, bool | dict | list):
        return odd_value(rng)
    return rng.choice(NUMBERS if isinstance(value, int | float) else PATHS + TEXTS)


def nested(depth: int) -> list:
    """Lists in lists."""
    found: list = []
    for _ in range(depth):
        found = [found]
    return found


def places(data: Any, found: tuple = ()) -> list[tuple]:
    """Paths to everything in a structure of dicts and lists."""
    paths = [found]
    items = data.items() if isinstance(data, dict) else ()
    items = enumerate(data[:50]) if isinstance(data, list) else items
    for key, value in items:
        paths.extend(places(value, (*found, key)))
    return paths


def mutate_structure(data: Any, rng: random.Random, times: int = 1) -> Any:
    """Sets, deletes, renames, swaps or wraps something somewhere."""
    data = copy.deepcopy(data)
    for _ in range(times):
        paths = [path for path in places(data) if path]
        if not paths:
            return odd_value(rng)
        path = rng.choice(paths)
        owner = data
        for key in path[:-1]:
            owner = owner[key]
        key, kind = path[-1], rng.randrange(6)
        if kind == 0:
            owner[key] = odd_value(rng)
        elif kind == 1:
            owner[key] = odd_like(owner[key], rng)
        elif kind == 2:
            del owner[key]
        elif kind == 3 and isinstance(owner, dict):
            text = str(key)
            near = [text.upper(), text[::-1], text + " ", text[1:], f"{text}{text}"]
            owner[rng.choice([*near, *TEXTS])] = owner.pop(key)
        elif kind == 4:
            other = rng.choice(paths)
            with_value = data
            try:
                for step in other:
                    with_value = with_value[step]
            except (KeyError, IndexError, TypeError):
                continue
            owner[key] = copy.deepcopy(with_value)
        else:
            owner[key] = rng.choice([[owner[key]], {"a": owner[key]}, str(owner[key])])
    return data


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Cuts, flips, zeroes, inserts, repeats or replaces."""
    size = len(content)
    # Half of the changes are near the front, where lengths and types are.
    at = rng.randrange(max(1, min(size, 512) if rng.random() < 0.5 else size))
    length = rng.choice([1, 2, 4, 8, 64, 4096])
    huge = rng.choice([2**63 - 1, 2**64 - 1, 2**40, 2**31, 2**32 - 1, 0, size])
    flipped = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 20])):
        place = (at + rng.randrange(256)) % max(size, 1)
        if size:
            flipped[place] ^= 1 << rng.randrange(8)
    return rng.choice(
        [
            lambda: content[:at],
            lambda: bytes(flipped),
            lambda: bytes(flipped),
            lambda: content[:at] + bytes(length) + content[at + length :],
            lambda: content[:at] + rng.randbytes(length) + content[at:],
            lambda: content[:at] + struct.pack("<Q", huge) + content[at + 8 :],
            lambda: content + content[:at],
            lambda: rng.choice([b"", b"\x00", rng.randbytes(200), b"<html>not found"]),
        ]
    )()


def mutate_json(content: bytes, rng: random.Random) -> bytes:
    """Another structure, or other bytes."""
    kind = rng.random()
    if kind < 0.2:
        return mutate_bytes(content, rng)
    if kind < 0.25:
        return b"[" * rng.choice([10, DEEP, 200_000])
    data = mutate_structure(json.loads(content), rng, rng.choice([1, 1, 2]))
    return json.dumps(data).encode()


def mutate_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Another header, or other bytes."""
    if rng.random() < 0.5:
        return mutate_bytes(content, rng)
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    entry = header[rng.choice(names)]
    kind = rng.randrange(6)
    if kind == 0:
        entry["dtype"] = rng.choice(["BF16", "F16", "I64", "F8_E4M3", "BOOL", "", "x"])
    elif kind == 1:
        entry["shape"] = rng.choice([[], [0], [-1], [2**62, 4], entry["shape"][::-1]])
    elif kind == 2:
        start, end = entry["data_offsets"]
        entry["data_offsets"] = rng.choice(
            [[end, start], [start, end + 4], [0, 2**63], [start - 4, end - 4]]
        )
    elif kind == 3:
        header[rng.choice(TEXTS)] = header.pop(rng.choice(names))
    else:
        header = mutate_structure(header, rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def mutate_text(settings: dict, rng: random.Random) -> bytes:
    """Other YAML text: tricks of the language, or other bytes."""
    text = yaml.safe_dump(settings, sort_keys=False)
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines) + 1)
    levels = [f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    bomb = f"[&a0 [x, x], {', '.join(levels)}]"
    tricks = [
        "!!python/object/apply:os.system ['true']\n", "seed: !!binary aGk=\n",
        "seed: &s [*s]\n", "qd: &q {bins: *q}\n", "? [a, b]\n: 1\n", "? {a: b}\n: 1\n",
        "<<: [1, 2]\n", "<<: *nowhere\n", "<<: {seed: 1}\n", "---\nseed: 1\n", "...\n",
        "%YAML 9.9\n", "seed: 1:2:3\n", "seed: 2001-13-45\n", "seed: 2001-01-01\n",
        f"seed: {'9' * 5000}\n", f"seed: 0x{'f' * 5000}\n", "seed: !!set {1, 2}\n",
        "seed: !!omap [a: 1]\n", "seed: !!int x\n", "seed: !!float []\n", "\tseed: 1\n",
        "seed: !!timestamp 1\n", "seed: 0b102\n", "seed: 1_000\n", "seed: .inf\n",
        f"seed: {'[' * DEEP}\n", f"seed: {'{a: ' * DEEP}\n", f"{'- ' * DEEP}1\n",
        "seed: |\n  text\n", "seed: >-\n", "'': 1\n", "null: 1\n", "1: 1\n",
        "true: 1\n", "seed: \"\\ud800\"\n", "seed: \"\\x00\"\n", "!!map {}\n",
        "seed: !!merge x\n", "=: 1\n", "seed: =\n", "seed: <<\n",
        "tasks: !!pairs [a: 1]\n",
        f"seed: {bomb}\n", f"tasks: {bomb}\n", f"experts: {{a: {bomb}}}\n",
        f"qd: {bomb}\n", f"? {bomb}\n: 1\n", f"<<: {bomb}\n", f"{bomb}: 1\n",
    ]  # fmt: skip
    choice = rng.randrange(5)
    if choice <= 1:
        trick = rng.choice(tricks)
        # In place of the setting, so that there is more to complain of than a key
        # given twice.
        key = trick.partition(":")[0]
        rest = {name: value for name, value in settings.items() if name != key}
        text = yaml.safe_dump(rest, sort_keys=False)
        return rng.choice([trick + text, text + trick]).encode()
    if choice == 2 and lines:
        again = rng.choice(lines)
        return "".join([*lines[:at], again, *lines[at:]]).encode()
    if choice == 3:
        encoding = rng.choice(["utf-16", "utf-8-sig", "utf-32"])
        return text.encode(encoding)
    return mutate_bytes(text.encode(), rng)


def mutate_config(settings: dict, rng: random.Random) -> bytes:
    """A config with wrong settings, or wrong YAML."""
    if rng.random() < 0.35:
        return mutate_text(settings, rng)
    data = mutate_structure(settings, rng, rng.choice([1, 1, 2, 4]))
    text = yaml.dump(data, Dumper=yaml.SafeDumper, allow_unicode=True, sort_keys=False)
    return text.encode("utf-8", "surrogatepass")


BY_ENDING: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": mutate_json,
    ".safetensors": mutate_safetensors,
}


def mutate_file(name: str, content: bytes, rng: random.Random) -> bytes:
    """Damage that suits a file's kind."""
    for ending, mutate in BY_ENDING.items():
        if name.endswith(ending):
            return mutate(content, rng)
    return mutate_bytes(content, rng)
