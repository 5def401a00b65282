"""Episodes as parquet tables: verdicts apart from wall times."""

import dataclasses
from collections.abc import Sequence

import pyarrow as pa

from cycleqd_jax.evaluate import Episode
from cycleqd_jax.io import files
from cycleqd_jax.io.run_folder import RunFolder

_RESULTS = pa.schema(
    [
        ("individual", pa.string()),
        ("split", pa.string()),
        ("task", pa.string()),
        ("problem", pa.string()),
        ("outcome", pa.string()),
        ("score", pa.float64()),
        ("answer", pa.string()),
        ("reply", pa.string()),
        ("explanation", pa.string()),
        ("turns", pa.int32()),
        ("prompt_tokens", pa.int32()),
        ("tokens", pa.list_(pa.int32())),
        ("finish", pa.string()),
    ]
)
_TIMES = ("individual", "split", "task", "problem", "seconds")


def write_episodes(folder: RunFolder, name: str, episodes: Sequence[Episode]) -> None:
    """Writes one part of the results and the times that belong to it.

    The times come first: a part of the results that exists is complete.
    """
    rows = [dataclasses.asdict(episode) for episode in episodes]
    times = pa.Table.from_pylist([{key: row[key] for key in _TIMES} for row in rows])
    files.write_table(folder.part("times", name), times)
    for row in rows:
        del row["seconds"]
    results = pa.Table.from_pylist(rows, schema=_RESULTS)
    files.write_table(folder.part("results", name), results)


def read_episodes(folder: RunFolder, name: str) -> list[Episode] | None:
    """Reads one part back, with times 0; None where it was not written."""
    path = folder.part("results", name)
    if not path.is_file():
        return None
    rows = files.read_table(path).to_pylist()
    return [
        Episode(**row | {"tokens": tuple(row["tokens"]), "seconds": 0.0})
        for row in rows
    ]
