"""A whole run: inputs, experts' scores, the cycle, the comparison."""

import time

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.local import mean_scores
from cycleqd_jax.progress import Observer
from cycleqd_jax.qd.cells import fixed_ranges, relative_ranges
from cycleqd_jax.runs import comparison, trained_experts
from cycleqd_jax.runs.checkpoints import Checkpoints, CycleState
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.loop import first_state, individual_name, run_cycle
from cycleqd_jax.runs.results import whole_batches
from cycleqd_jax.runs.run_log import log_run
from cycleqd_jax.runs.run_settings import cycle_settings
from cycleqd_jax.runs.setup import (
    Prepared,
    open_evaluator,
    open_sandbox,
    prepare,
    write_run_facts,
)
from cycleqd_jax.runs.trackers import check_logging


def evolve(config: RunConfig, folder: RunFolder, observer: Observer) -> None:
    """Runs, or goes on with, the run of a folder up to its comparison of models.

    What is left to do is read from the folder, so it may be called again after any
    interruption; the outcome is the same, byte for byte, wall times aside.

    Args:
      config: the settings.
      folder: open; empty or with a run of the same inputs.
      observer: hears of progress.

    Raises:
      BadInputError: an input is wrong; nothing was begun.
      RunError: the run cannot go on; it can be resumed.
    """
    start = time.perf_counter()
    check_logging(config.logging.to)
    sandbox = open_sandbox(config.sandbox)  # first: it may not be permitted here
    prepared = prepare(config, folder, observer)
    write_run_facts(folder, config, prepared)
    observer.note(prepared.mode.reason)
    trained_experts.describe_experts(prepared, folder, observer)
    with (
        log_run(config, folder, observer) as observer,
        Checkpoints(folder.checkpoints) as checkpoints,
        open_evaluator(config, prepared, sandbox) as evaluator,
    ):
        observer.phase("compiling the engine")
        evaluator.compile(observer.note)
        folder.log_time("set-up", time.perf_counter() - start)
        measured = comparison.Measured(evaluator, folder, observer)
        state = _state(config, prepared, folder, checkpoints, measured, observer)
        if state.next_generation <= config.qd.num_generations:
            comparison.forget_final_parts(folder)
            observer.phase("evolving")
            state = run_cycle(
                state,
                settings=cycle_settings(config),
                basis=prepared.basis,
                evaluator=evaluator,
                folder=folder,
                checkpoints=checkpoints,
                observer=observer,
            )
        start = time.perf_counter()
        comparison.compare(
            measured,
            folder,
            state,
            prepared.basis,
            prepared.task_names,
            candidates=config.aggregation.candidates,
            choose_by=config.aggregation.choose_by,
            factors=config.baselines.scaled_merge_factors,
        )
        folder.log_time("comparison", time.perf_counter() - start)
        observer.compared(state.next_generation - 1)


def _state(
    config: RunConfig,
    prepared: Prepared,
    folder: RunFolder,
    checkpoints: Checkpoints,
    measured: comparison.Measured,
    observer: Observer,
) -> CycleState:
    """The newest checkpoint that can be used, or the state that the experts make."""
    last, beyond = whole_batches(folder)
    state = checkpoints.restore(last=last, beyond=beyond, note=observer.note)
    if state is None and folder.batches():
        raise BadInputError(
            f"run_dir: {folder.path} holds results of children, but no checkpoint; "
            "bring checkpoints/ back from a copy, or start anew with run_dir=FOLDER."
        )
    start = time.perf_counter()
    tasks = prepared.task_names
    # Only read where they are there; the comparison needs them whole.
    scores = mean_scores(comparison.measure_experts(measured, prepared.basis, tasks))
    as_trained = trained_experts.measure_trained_experts(config, prepared, measured)
    if state is not None:
        folder.drop_batches_from(state.next_generation)
        return state
    trained_experts.note_losses(as_trained, scores, observer)
    folder.log_time("experts", time.perf_counter() - start)
    if config.qd.cell_range == "relative":
        experts = [individual_name(k, tasks) for k in range(len(tasks))]
        ranges = relative_ranges([[scores[e][t] for t in tasks] for e in experts])
    else:
        by_entry = config.qd.cell_range
        ranges = fixed_ranges([by_entry[entry] for entry in config.tasks], len(tasks))
    state = first_state(prepared.basis, tasks, scores, ranges, config.qd.bins)
    checkpoints.save(state)
    return state
