"""Episodes as parquet tables: verdicts apart from wall times."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.base import Episode, ReferenceScore
from cycleqd_jax.evaluation.racing import Verdict
from cycleqd_jax.runs import sums
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.reading import read_rows

EXPERTS_PART = "experts-optimise"  # the base and the experts' genomes
_METRIC = pa.struct([("name", pa.string()), ("value", pa.float64())])
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
        ("replies", pa.list_(pa.string())),
        ("metrics", pa.list_(_METRIC)),
    ]
)
_LOGPROBS = pa.schema(
    [
        ("individual", pa.string()),
        ("split", pa.string()),
        ("task", pa.string()),
        ("problem", pa.string()),
        ("logprob", pa.float64()),
        ("tokens", pa.int32()),
    ]
)
_TIMES = ("individual", "split", "task", "problem", "seconds")


def write_episodes(folder: RunFolder, name: str, episodes: Sequence[Episode]) -> None:
    """Writes one part of the results and its wall times.

    Times are written first, so a part of the results that exists is complete.
    """
    rows = [
        {name: _encodable(value) for name, value in dataclasses.asdict(episode).items()}
        | {"metrics": _metrics(episode)}
        for episode in episodes
    ]
    times = pa.Table.from_pylist([{key: row[key] for key in _TIMES} for row in rows])
    files.write_table(folder.part("times", name), times)
    for row in rows:
        del row["seconds"]
    results = pa.Table.from_pylist(rows, schema=_RESULTS)
    folder.write_part("results", name, results)


def read_episodes(folder: RunFolder, name: str) -> list[Episode] | None:
    """Reads one part, with wall times of 0; None if it was not written.

    Raises:
      BadInputError: it is damaged.
    """
    if not folder.part("results", name).is_file():
        return None
    rows = read_results(folder, name).to_pylist()
    return [
        Episode(
            **row
            | {
                "tokens": tuple(row["tokens"]),
                "replies": tuple(row["replies"]),
                "metrics": {m["name"]: m["value"] for m in row["metrics"]},
                "seconds": 0.0,
            }
        )
        for row in rows
    ]


def write_logprobs(
    folder: RunFolder, name: str, scores: Sequence[ReferenceScore]
) -> None:
    """Writes log-probabilities of answers and texts as one part of `logprobs`."""
    rows = [dataclasses.asdict(score) for score in scores]
    folder.write_part("logprobs", name, pa.Table.from_pylist(rows, schema=_LOGPROBS))


def read_logprobs(folder: RunFolder, name: str) -> list[ReferenceScore] | None:
    """Reads what `write_logprobs` wrote; None if it was not written.

    Raises:
      BadInputError: it is damaged.
    """
    if not folder.part("logprobs", name).is_file():
        return None
    rows = folder.read_part("logprobs", name).to_pylist()
    return [ReferenceScore(**row) for row in rows]


def _encodable(value: Any) -> Any:
    """Texts with an escape for half of a surrogate pair, which is no UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, tuple):
        return tuple(map(_encodable, value))
    return value


def _metrics(episode: Episode) -> list[dict[str, Any]]:
    return [{"name": n, "value": v} for n, v in sorted(episode.metrics.items())]


def recorded_verdicts(folder: RunFolder) -> Iterator[Verdict]:
    """Verdicts on `optimise` of the base, the experts and all children on record.

    They come in the order of their evaluation, whatever else a finished run holds.

    Raises:
      BadInputError: a part is damaged.
    """
    paths = [folder.part("results", n) for n in (EXPERTS_PART, *folder.batches())]
    for row in read_rows(paths, Verdict._fields):
        yield Verdict(**row)


def whole_batches(folder: RunFolder, *, logprobs: bool = False) -> tuple[int, str]:
    """Finds the last child up to which all parts of batches are whole.

    Args:
      folder: of the run.
      logprobs: whether there must be log-probabilities too.

    Returns:
      Its generation, 0 if there is none; and what is wrong with the parts after it.
    """
    last = 0
    for name in folder.batches():
        try:
            individuals = read_results(folder, name).column("individual").unique()
            metrics = folder.read_part("metrics", name)
            generations = metrics.column("generation").to_pylist()
            sums.verified(folder.part("costs", name))
            if logprobs:
                sums.verified(folder.part("logprobs", name))
        except (BadInputError, KeyError) as err:
            return last, f"the parts {name} are damaged ({err})"
        if generations != list(range(last + 1, last + 1 + len(generations))):
            return last, f"the results of child {last + 1} are missing"
        if set(individuals.to_pylist()) != {f"child/{t}" for t in generations}:
            return last, f"results/{name}.parquet lacks some of its children"
        last += len(generations)
    return last, "the results after it are missing"


def read_results(folder: RunFolder, name: str) -> pa.Table:
    """Reads one part of the results as a table.

    Raises:
      BadInputError: it is missing, damaged, or has other columns.
    """
    table = folder.read_part("results", name)
    if not table.schema.equals(_RESULTS):
        path = folder.part("results", name)
        raise BadInputError(f"{path} is damaged: its columns are not those of results.")
    return table
