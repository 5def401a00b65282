"""Reads the tables of a run folder and says in one sentence what is wrong with them.

Only the columns and rows that are asked for are read into memory.
"""

import json
import math
import pathlib
import statistics
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pydantic

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.runs import sums


class _Pair(pydantic.BaseModel):
    first: str
    second: str
    cosine: float


class _LeastKept(pydantic.BaseModel):
    matrix: str
    kept: float


class _BasisFacts(pydantic.BaseModel):
    """The content of `basis.json`."""

    similarity: list[_Pair]
    energy_kept: dict[str, float]
    least_kept: dict[str, _LeastKept]
    residuals: bool
    conditioning: str = "none"
    gram_tokens: int = 0


def unfinished(run: pathlib.Path, what: str) -> BadInputError:
    """The error for a run that lacks `what`."""
    return BadInputError(
        f"{run}: the run has not finished, {what}; go on with it with --resume, then "
        "report."
    )


def read_basis_facts(run: pathlib.Path) -> dict[str, Any]:
    """`basis.json`; empty where the run has none.

    Raises:
      BadInputError: if it is unreadable or not what a run writes.
    """
    path = run / "basis.json"
    if not path.exists():
        return {}
    try:
        content = sums.intact(path).read_bytes()
        return _BasisFacts.model_validate_json(content).model_dump()
    except (OSError, pydantic.ValidationError) as err:
        reason = " ".join(str(err).split())
        raise BadInputError(f"{path}: not the facts on a basis ({reason}).") from err


def parts(run: pathlib.Path, folder: str) -> list[pathlib.Path]:
    """The Parquet parts in `folder`, by name.

    Raises:
      BadInputError: if there are none.
    """
    found = sorted((run / folder).glob("*.parquet"))
    if not found:
        raise unfinished(run, f"{folder}/ holds no part")
    return found


def read_rows(
    paths: Iterable[pathlib.Path],
    columns: Sequence[str],
    prefixes: tuple[str, ...] = (),
    **where: Collection[str],
) -> list[dict[str, Any]]:
    """Rows of Parquet files as mappings.

    Args:
      paths: files; their rows come one file after the other.
      columns: which columns.
      prefixes: further columns, those whose names begin so.
      **where: for columns of texts, which values to keep.

    Raises:
      BadInputError: if a file is missing, damaged or lacks a column.
    """
    rows: list[dict[str, Any]] = []
    for path in paths:
        if not path.exists():
            raise unfinished(path.parent, f"{path.name} is missing")
        sums.intact(path)
        try:
            held = pq.read_schema(path).names
            lacking = [name for name in columns if name not in held]
            if lacking:
                raise BadInputError(f"{path}: expected a column {lacking[0]}.")
            # No partitioning: a folder called seed=1 must not become a column.
            table = pq.read_table(
                path,
                columns=[*columns, *(n for n in held if n.startswith(prefixes))],
                partitioning=None,
                page_checksum_verification=True,
            )
            for column, values in where.items():
                wanted = pa.array(sorted(values), pa.string())
                table = table.filter(pc.is_in(table[column], value_set=wanted))
        except (pa.ArrowException, OSError) as err:
            reason = " ".join(str(err).split())
            raise BadInputError(f"{path}: not readable as Parquet ({reason}).") from err
        rows.extend(table.to_pylist())
    return rows


def read_scores(
    run: pathlib.Path, individuals: Collection[str] | None = None
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Scores in [0, 1] by individual, split, task and problem.

    Of several evaluations on one problem, like an expert's as a baseline and as a
    candidate, the one in the part whose name comes first counts.

    Raises:
      BadInputError: if a score is not in [0, 1].
    """
    scores: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    columns = ["individual", "split", "task", "problem", "score"]
    chosen = {} if individuals is None else {"individual": individuals}
    for row in read_rows(parts(run, "results"), columns, **chosen):
        score = row["score"]
        if score is None or not 0 <= score <= 1:
            raise BadInputError(
                f"{run / 'results'}: {row['individual']} scores {score} on "
                f"{row['problem']}; expected a score from 0 to 1."
            )
        splits = scores.setdefault(row["individual"], {})
        problems = splits.setdefault(row["split"], {}).setdefault(row["task"], {})
        problems.setdefault(row["problem"], score)
    return scores


class Mean(NamedTuple):
    """Attributes: `value`, and its `error`: the standard error, 0.0 for one number."""

    value: float
    error: float


def read_metrics(
    run: pathlib.Path, individuals: Collection[str]
) -> dict[str, dict[str, dict[str, dict[str, Mean]]]]:
    """Means of further verdicts by individual, split, task and name.

    Each is the mean over the problems that have it; which evaluation counts is as for
    `read_scores`.
    """
    columns = ["individual", "split", "task", "problem", "metrics"]
    seen: set[tuple[str, ...]] = set()
    values: dict[tuple[str, ...], list[float]] = {}
    for row in read_rows(parts(run, "results"), columns, individual=individuals):
        place = (row["individual"], row["split"], row["task"])
        if (*place, row["problem"]) in seen:
            continue
        seen.add((*place, row["problem"]))
        for metric in row["metrics"]:
            values.setdefault((*place, metric["name"]), []).append(metric["value"])
    means: dict[str, dict[str, dict[str, dict[str, Mean]]]] = {}
    for (individual, split, task, name), found in sorted(values.items()):
        tasks = means.setdefault(individual, {}).setdefault(split, {})
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        mean = Mean(statistics.fmean(found), spread / math.sqrt(len(found)))
        tasks.setdefault(task, {})[name] = mean
    return means


def read_replies(
    run: pathlib.Path,
    individuals: Collection[str],
    split: str,
    problems: Collection[str],
) -> list[dict[str, Any]]:
    """Rows with task, problem, outcome, answer, reply and explanation, by problem."""
    columns = ["individual", "split", "task", "problem", "outcome", "answer"]
    rows = read_rows(
        parts(run, "results"),
        [*columns, "reply", "explanation"],
        individual=individuals,
        split=[split],
        problem=problems,
    )
    by_problem: dict[str, dict[str, Any]] = {}
    for row in rows:
        by_problem.setdefault(row["problem"], row)
    return [by_problem[problem] for problem in sorted(by_problem)]


def read_seconds(run: pathlib.Path) -> dict[str, float]:
    """Wall time by phase; empty where none was written.

    A line that a killed process left unfinished is skipped: times are for a reader's
    information and must not stand in the way of results.
    """
    try:
        lines = (run / "timing.jsonl").read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    seconds: dict[str, float] = {}
    for line in lines:
        try:
            entry = json.loads(line)
            phase, spent = str(entry["phase"]), float(entry["seconds"])
        except (ValueError, TypeError, KeyError):
            continue
        seconds[phase] = seconds.get(phase, 0.0) + spent
    return seconds
