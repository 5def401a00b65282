"""Files that are either there in full or not at all."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_atomically(path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    """Lets `write` fill a temporary sibling, then renames it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def write_json(path: pathlib.Path, data: Any) -> None:
    """Writes JSON atomically; equal data give equal bytes."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True) + "\n")


def read_json(path: pathlib.Path) -> Any:
    """Reads JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_table(path: pathlib.Path, table: pa.Table) -> None:
    """Writes a parquet file atomically; equal tables give equal bytes."""
    write_atomically(path, lambda p: pq.write_table(table, p, compression="zstd"))


def read_table(path: pathlib.Path) -> pa.Table:
    """Reads a parquet file."""
    return pq.read_table(path)
