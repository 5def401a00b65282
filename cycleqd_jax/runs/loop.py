"""The loop of a run: ask, evaluate, tell, save.

P candidates are asked from one state, evaluated together, and told in order. Where the
evaluator serves several calls at once and the search takes candidates in any order,
that many batches are evaluated at a time; each is told when it arrives, and only then
are its children numbered. The loop knows the protocols of search and evaluator only.
"""

import functools
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
import pyarrow as pa
from qdax.custom_types import RNGKey

from cycleqd_jax.evaluation.accepted import AcceptedReplies
from cycleqd_jax.evaluation.base import Cost, Evaluator, mean_losses, total_cost
from cycleqd_jax.evaluation.smooth import FitnessSettings
from cycleqd_jax.progress import BatchSummary, Observer, Usage
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.runs.batch import evaluate_batch, renumbered
from cycleqd_jax.runs.checkpoints import Checkpoints
from cycleqd_jax.runs.costs import write_costs
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.lanes import Asked, Lanes, untold
from cycleqd_jax.runs.names import child_name, individual_name
from cycleqd_jax.runs.results import read_episodes, write_episodes, write_logprobs
from cycleqd_jax.runs.retention import TextRetention
from cycleqd_jax.search.base import (
    Candidates,
    Lineage,
    Outcome,
    Search,
    State,
    Status,
    candidate,
)
from cycleqd_jax.search.requests import (
    AcceptedAnswer,
    AcceptedRequest,
    Answer,
    GradientAnswer,
    GradientRequest,
    Problems,
    ScoreAnswer,
    ScoreRequest,
)
from cycleqd_jax.tasks.base import Split


def run_search(
    search: Search,
    state: State,
    *,
    seed: int,
    qd: QDSettings,
    evaluator: Evaluator,
    folder: RunFolder,
    checkpoints: Checkpoints,
    observer: Observer,
    fitness: FitnessSettings = FitnessSettings(),  # noqa: B008 - it is frozen
    retention: TextRetention | None = None,
    accepted: AcceptedReplies | None = None,
) -> State:
    """Goes on from `state` to the last generation.

    After every batch results and metrics are in place before the checkpoint that
    counts them, so a run that is killed at any moment and resumed ends the same. With
    several lanes the number of children is the same, but they depend on the order in
    which batches arrive.

    Args:
      search: the method.
      state: of it.
      seed: of the search; every batch gets `jax.random.key(seed)`.
      qd: number of children and batch size.
      evaluator: scores candidates on `optimise`.
      folder: of the run.
      checkpoints: of the same folder.
      observer: hears of progress.
      fitness: whether candidates get smooth scores.
      retention: measures the retention of candidates; None where it is no behaviour.
      accepted: right replies of the individuals told so far; those of candidates are
        added. None for a search that does not use them.

    Returns:
      The state after the last generation.

    Raises:
      RunError: the environment failed; what the last checkpoint counts is kept.
    """
    key = jax.random.key(seed)
    tasks = [task.name for task in evaluator.tasks]
    experts = search.context.basis.expert_names
    # A run that was killed may have written what no checkpoint counts.
    folder.drop_batches_from(state.next_generation)
    numbers = untold(folder, qd.num_generations)
    start = time.perf_counter()
    with Lanes() as lanes:
        while state.next_generation <= qd.num_generations:
            most = getattr(evaluator, "lanes", 1) if search.any_order else 1
            while len(lanes) < most and (
                ts := tuple(itertools.islice(numbers, qd.children_per_batch))
            ):
                costs: list[tuple[str, Cost]] = []
                candidates = ask(search, state, key, ts, evaluator, costs, accepted)
                names = [child_name(t) for t in ts]
                evaluate = functools.partial(
                    evaluate_batch,
                    evaluator if most == 1 else evaluator.lane,
                    dict(zip(names, candidates.genomes, strict=True)),
                    smooth=fitness.smooth,
                    retention=retention,
                    progress=observer.episodes if most == 1 else None,
                )
                known = state.next_generation - 1
                lanes.begin(Asked(candidates, known, costs), evaluate)
            asked, batch = lanes.next()
            candidates, batch = renumbered(
                asked.candidates, batch, state.next_generation
            )
            ts, rows = candidates.ts, []
            for i, outcome in enumerate(batch.outcomes):
                state = search.tell(state, candidate(candidates, i), [outcome])
                rows.append(
                    {"generation": ts[i], "individual": child_name(ts[i])}
                    | {"asked": asked.candidates.ts[i]}
                    | {"staleness": ts[i] - 1 - asked.known}
                    | _lineage_columns(candidates.lineage[i], tasks, experts)
                    | _score_columns(outcome, tasks, fitness, retention)
                    | search.metrics(state)
                )
            part, costs = f"batch-{ts[0]:06d}", [*asked.costs, *batch.costs.items()]
            write_costs(folder, part, costs)
            if fitness.smooth or retention is not None:
                write_logprobs(folder, part, batch.logprobs)
            write_episodes(folder, part, batch.episodes)
            if accepted is not None:  # as a resumed run reads them
                accepted.add(read_episodes(folder, part) or ())
            folder.write_part("metrics", part, pa.Table.from_pylist(rows))
            checkpoints.save(state)
            now = time.perf_counter()
            start, seconds = now, now - start
            usage = usage_of(total_cost(cost for _, cost in costs), seconds)
            details = {} if usage is None else _rounded(usage)
            folder.log_time("batch", seconds, generation=ts[-1], **details)
            observer.batch(
                BatchSummary(
                    generation=ts[-1],
                    num_generations=qd.num_generations,
                    best=_by_task(rows[-1], "best/"),
                    coverage=_by_task(rows[-1], "coverage/"),
                    seconds=seconds,
                    children=len(ts),
                    usage=usage,
                )
            )
    return state


def ask(
    search: Search,
    state: State,
    key: RNGKey,
    ts: Sequence[int],
    evaluator: Evaluator,
    costs: list[tuple[str, Cost]] | None = None,
    accepted: AcceptedReplies | None = None,
) -> Candidates:
    """The candidates of some generations; answers the search's requests on the way.

    Args:
      search: the method.
      state: of it.
      key: for its `ask`.
      ts: the generations.
      evaluator: answers requests.
      costs: if given, the kind and cost of every answer are appended.
      accepted: right replies of the individuals told so far, for a search that asks.
    """
    got = search.ask(state, key, ts)
    answers: list[Answer] = []
    while not isinstance(got, Candidates):
        if isinstance(got, AcceptedRequest):
            answers.append(AcceptedAnswer(*accepted.solved()))
        else:
            answer, *spent = _answer(got, evaluator, accepted)
            answers.append(answer)
            if costs is not None:
                costs.append(tuple(spent))
        got = search.ask(state, key, ts, tuple(answers))
    return got


def _answer(
    request: GradientRequest | ScoreRequest,
    evaluator: Evaluator,
    accepted: AcceptedReplies | None,
) -> tuple[Answer, str, Cost]:
    """The answer, and the kind and cost of the call that gave it."""
    if isinstance(request, GradientRequest):
        found = evaluator.gradient(
            request.genomes,
            request.task_weights,
            Split.OPTIMISE if request.accepted else Split.TRAIN,
            problems=request.problems,
            replies=accepted.replies() if request.accepted else None,
        )
        answer = GradientAnswer(found.losses, found.gradients)
        return answer, "gradient", found.cost
    tasks = [task.name for task in evaluator.tasks]
    losses = np.full((len(request.genomes), len(tasks)), math.nan)
    costs = []
    # Genomes with the same problems are scored in one call.
    for problems, rows in _by_problems(request.problems):
        names = {str(row): request.genomes[row] for row in rows}
        scoring = evaluator.score(names, Split.TRAIN, problems=problems)
        costs.append(scoring.cost)
        for name, means in mean_losses(scoring.scores).items():
            losses[int(name)] = [means.get(task, math.nan) for task in tasks]
    return ScoreAnswer(losses), "score", total_cost(costs)


def _by_problems(
    problems: Sequence[Problems],
) -> Iterator[tuple[Problems, list[int]]]:
    """Each of some sets of problems once, and the rows that have it."""
    rows: dict[tuple, list[int]] = {}
    for row, own in enumerate(problems):
        key = tuple((task, tuple(ids)) for task, ids in own.items())
        rows.setdefault(key, []).append(row)
    for same in rows.values():
        yield problems[same[0]], same


def usage_of(cost: Cost, seconds: float) -> Usage | None:
    """The split of wall time; None for an evaluator without an engine."""
    stats = cost.engine
    if stats is None:
        return None
    device = min(stats.device_seconds / seconds, 1.0)
    sandbox = min(stats.idle_seconds / seconds, 1.0 - device)
    return Usage(
        prefill_rate=stats.prefill_rate,
        decode_rate=stats.decode_rate,
        occupancy=stats.occupancy,
        device=device,
        sandbox=sandbox,
        python=1.0 - device - sandbox,
    )


def _rounded(usage: Usage) -> dict[str, float]:
    return {name: round(value, 3) for name, value in usage._asdict().items()}


def _lineage_columns(
    lineage: Lineage, tasks: Sequence[str], experts: Sequence[str]
) -> dict[str, object]:
    """Columns of the metrics; None where a candidate has no such thing."""
    parents = [individual_name(parent, experts) for parent in lineage.parents]
    weights = list(lineage.weights)
    first, second = (parents or [None] * 2), (weights or [math.nan] * 2)
    return {
        "active_task": None if lineage.active is None else tasks[lineage.active],
        "parent_1": first[0],
        "parent_2": first[1],
        "weight_1": second[0],
        "weight_2": second[1],
    }


def _score_columns(
    outcome: Outcome,
    tasks: Sequence[str],
    fitness: FitnessSettings,
    retention: TextRetention | None,
) -> dict[str, object]:
    """Columns of the metrics on one candidate's scores."""
    columns = {
        f"score/{task}": s for task, s in zip(tasks, outcome.scores, strict=True)
    }
    if fitness.smooth:
        likely = outcome.smooth or (math.nan,) * len(tasks)
        columns |= {f"smooth/{t}": s for t, s in zip(tasks, likely, strict=True)}
    if retention is not None:
        kept = outcome.retention
        columns["retention"] = math.nan if kept is None else kept
    return columns | {"complete": outcome.status is Status.COMPLETE}


def _by_task(row: Mapping[str, object], prefix: str) -> dict[str, float]:
    return {
        name.removeprefix(prefix): float(value)
        for name, value in row.items()
        if name.startswith(prefix)
    }
