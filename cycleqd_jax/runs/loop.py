"""The cycle: propose, evaluate, tell, checkpoint.

One MAP-Elites archive per task; the active archive changes with the generation. P
consecutive children are bred from the same archives and evaluated together, then told
to all archives in order of their generation.

Source: CycleQD (arXiv 2410.14735), algorithm 1.
"""

import time
from collections.abc import Mapping, Sequence

import jax
import pyarrow as pa

from cycleqd_jax import files
from cycleqd_jax.evaluation.local import Evaluator, mean_scores
from cycleqd_jax.inference.stats import EngineStats
from cycleqd_jax.merging.basis import Basis
from cycleqd_jax.merging.genome import expert_genome
from cycleqd_jax.progress import BatchSummary, Observer, Usage
from cycleqd_jax.qd.archives import Archives, Status, empty_archives
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.qd.cells import Range
from cycleqd_jax.qd.elites import archive_metrics
from cycleqd_jax.qd.propose import Proposal, propose
from cycleqd_jax.qd.schedule import generation_batch
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.runs.checkpoints import Checkpoints, CycleState
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.results import write_episodes
from cycleqd_jax.tasks.base import Split


def individual_name(individual: int, tasks: Sequence[str]) -> str:
    """What an id is called in files: "expert/<task>" or "child/<generation>"."""
    if individual < len(tasks):
        return f"expert/{tasks[individual]}"
    return f"child/{individual - len(tasks) + 1}"


def first_state(
    basis: Basis,
    tasks: Sequence[str],
    expert_scores: Mapping[str, Mapping[str, float]],
    ranges: Sequence[Range],
    bins: int,
) -> CycleState:
    """The state before generation 1: every expert was offered to every archive.

    Args:
      basis: its experts are those of `tasks`.
      tasks: names, in the order of the archives.
      expert_scores: "expert/<task>" -> task -> score on `optimise`.
      ranges: K score ranges of the cells.
      bins: per task.
    """
    archives, bank = empty_archives(ranges, bins), Bank.empty(len(tasks))
    for k in range(len(tasks)):
        by_task = expert_scores[individual_name(k, tasks)]
        scores = [by_task[task] for task in tasks]
        bank = bank.add_expert(expert_genome(basis, k), scores)
        archives, _ = archives.offer(k, scores)
    return CycleState(archives, bank, next_generation=1)


def run_cycle(
    state: CycleState,
    *,
    seed: int,
    settings: QDSettings,
    basis: Basis,
    evaluator: Evaluator,
    folder: RunFolder,
    checkpoints: Checkpoints,
    observer: Observer,
) -> CycleState:
    """Goes on from `state` to the last generation.

    After every batch results and metrics are in place before the checkpoint that
    counts them, so a run that is killed at any moment and resumed ends the same.

    Raises:
      RunError: the environment failed; what the last checkpoint counts is kept.
    """
    run_key = jax.random.key(seed)
    while state.next_generation <= settings.num_generations:
        start, before = time.perf_counter(), evaluator.stats.copy()
        ts = generation_batch(
            state.next_generation, settings.num_generations, settings.children_per_batch
        )
        proposal = propose(
            state.archives, state.bank, basis, run_key, ts, settings=settings
        )
        genomes = jax.device_get(proposal.genomes)
        episodes = evaluator.evaluate(
            {f"child/{t}": genomes[i] for i, t in enumerate(ts)},
            Split.OPTIMISE,
            progress=observer.episodes,
        )
        scores = mean_scores(episodes)
        tasks = [task.name for task in evaluator.tasks]
        state, rows = tell(state, proposal, ts, scores, tasks)
        name = f"batch-{ts[0]:06d}"
        write_episodes(folder, name, episodes)
        files.write_table(folder.part("metrics", name), pa.Table.from_pylist(rows))
        checkpoints.save(state)
        seconds = time.perf_counter() - start
        usage = usage_of(evaluator.stats.since(before), seconds)
        folder.log_time("batch", seconds, generation=ts[-1], **_rounded(usage))
        observer.batch(
            BatchSummary(
                generation=ts[-1],
                num_generations=settings.num_generations,
                best={task: rows[-1][f"best/{task}"] for task in tasks},
                coverage={task: rows[-1][f"coverage/{task}"] for task in tasks},
                seconds=seconds,
                children=len(ts),
                usage=usage,
            )
        )
    return state


def usage_of(stats: EngineStats, seconds: float) -> Usage:
    """Where `seconds` of wall time went, from what the engine counted in them."""
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


def tell(
    state: CycleState,
    proposal: Proposal,
    ts: Sequence[int],
    scores: Mapping[str, Mapping[str, float]],
    tasks: Sequence[str],
) -> tuple[CycleState, list[dict[str, object]]]:
    """Offers evaluated children to all archives, in order of t.

    Args:
      state: before the batch.
      proposal: the P children.
      ts: their generations.
      scores: "child/<t>" -> task -> score on `optimise`.
      tasks: names, in the order of the archives.

    Returns:
      The state after the batch, and one row of metrics per child.
    """
    archives, bank = state.archives, state.bank
    rows = []
    for i, t in enumerate(ts):
        name = f"child/{t}"
        child_scores = [scores[name][task] for task in tasks]
        individual = bank.next_id
        bank = bank.add_child(
            jax.device_get(proposal.genomes)[i],
            child_scores,
            parents=proposal.parents[i].tolist(),
            weights=proposal.weights[i].tolist(),
            active=int(proposal.active[i]),
        )
        archives, statuses = archives.offer(individual, child_scores)
        rows.append(
            {
                "generation": t,
                "individual": name,
                "active_task": tasks[int(proposal.active[i])],
                "parent_1": individual_name(int(proposal.parents[i, 0]), tasks),
                "parent_2": individual_name(int(proposal.parents[i, 1]), tasks),
                "weight_1": float(proposal.weights[i, 0]),
                "weight_2": float(proposal.weights[i, 1]),
            }
            | _archive_columns(archives, bank, tasks, child_scores, statuses)
        )
    bank = bank.prune(archives.kept_ids())
    return CycleState(archives, bank, ts[-1] + 1), rows


def _archive_columns(
    archives: Archives,
    bank: Bank,
    tasks: Sequence[str],
    scores: Sequence[float],
    statuses: Sequence[Status],
) -> dict[str, float | str]:
    columns: dict[str, float | str] = {}
    metrics = archive_metrics(archives, bank)
    for task, score, status, m in zip(tasks, scores, statuses, metrics, strict=True):
        columns[f"score/{task}"] = score
        columns[f"status/{task}"] = str(status)
        columns[f"best/{task}"] = m.best
        columns[f"coverage/{task}"] = m.coverage
        columns[f"qd_score/{task}"] = m.qd_score
    return columns
