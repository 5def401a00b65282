"""A whole run, or a dry run: inputs, experts' scores, the search, the comparison."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.accepted import AcceptedReplies
from cycleqd_jax.evaluation.base import Evaluator
from cycleqd_jax.evaluation.racing import RacingEvaluator
from cycleqd_jax.evaluation.retention import passages
from cycleqd_jax.merging.genome import expert_genome
from cycleqd_jax.progress import SEARCHING, Observer
from cycleqd_jax.runs import comparison, trained_experts
from cycleqd_jax.runs.checkpoints import Checkpoints, last_generation
from cycleqd_jax.runs.complete import is_complete
from cycleqd_jax.runs.conditioning import check_gram_memory
from cycleqd_jax.runs.data_sets import with_commits
from cycleqd_jax.runs.facts import read_facts
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.kinds import IMAGES, kind_of
from cycleqd_jax.runs.loop import run_search
from cycleqd_jax.runs.memory import this_machine
from cycleqd_jax.runs.names import expert_name
from cycleqd_jax.runs.parts import Kind, Prepared, write_run_facts
from cycleqd_jax.runs.plan import Plan, find_inputs, make_plan
from cycleqd_jax.runs.results import (
    EXPERTS_PART,
    read_episodes,
    recorded_verdicts,
    whole_batches,
)
from cycleqd_jax.runs.retention import TextRetention
from cycleqd_jax.runs.search import make_search, rehearse_search
from cycleqd_jax.runs.tasks import check_splits, find_out_of_domain, find_tasks
from cycleqd_jax.runs.trackers import check_trackers, track_run
from cycleqd_jax.search.base import State
from cycleqd_jax.search.registry import search_class


def evolve(
    config: RunConfig,
    folder: RunFolder,
    observer: Observer,
    relay: Any = None,
    saved: Callable[[], None] | None = None,
    tests: bool = True,
) -> None:
    """Carries out the run of a folder, up to the comparison of its models.

    What is left to do is read from the folder, so it may be called again after any
    interruption; the outcome is the same, byte for byte, wall times aside.

    Args:
      config: the settings.
      folder: open; empty, or with a run of the same inputs.
      observer: hears of progress.
      relay: an `inference.relay.Leader` of the other processes that share the mesh, if
        there are any.
      saved: is called after every checkpoint, and after the comparison.
      tests: False ends with the choice of champions on `validate`. Then the run is not
        finished: a later call compares the models, or searches on.

    Raises:
      BadInputError: an input is wrong; nothing was begun.
      RunError: the run cannot go on; it can be resumed.
    """
    start = time.perf_counter()
    config = with_commits(config, folder.path)
    check_trackers(config.logging)
    kind = open_kind(config, relay)
    kind.check()  # first: a sandbox may not be permitted here
    prepared = kind.prepare(folder, observer)
    rehearse_search(config, prepared.search)
    write_run_facts(folder, config, prepared)
    observer.note(prepared.mode.reason)
    trained_experts.describe_experts(
        prepared.basis,
        folder,
        observer,
        config.basis.conditioning,
        prepared.gram_tokens,
    )
    with (
        track_run(config, folder, observer) as observer,
        Checkpoints(folder.checkpoints, saved) as checkpoints,
        kind.evaluator(prepared, observer) as evaluator,
    ):
        folder.log_time("set-up", time.perf_counter() - start)
        cached = comparison.CachedEvaluator(evaluator, folder, observer)
        texts, retention = passages(config.retention), None
        if config.retention.descriptor:
            retention = comparison.expert_retention(cached, prepared.basis, texts)
        state = _state(
            config, prepared, folder, checkpoints, cached, retention, observer
        )
        if state.next_generation <= config.qd.num_generations:
            comparison.forget_final_parts(folder)
            observer.phase(SEARCHING)
            state = run_search(
                prepared.search,
                state,
                seed=config.seed,
                qd=config.qd,
                evaluator=_racing(config, evaluator, folder),
                folder=folder,
                checkpoints=checkpoints,
                observer=observer,
                fitness=config.fitness,
                retention=retention,
                accepted=_accepted(config, evaluator, folder),
            )
        if not tests:
            comparison.choose_finalists(
                cached, prepared.search, state, prepared.task_names, config.aggregation
            )
            return
        comparison.compare(
            cached,
            folder,
            prepared.search,
            state,
            prepared.basis,
            prepared.task_names,
            aggregation=config.aggregation,
            factors=config.baselines.scaled_merge_factors,
            texts=texts,
            known=() if retention is None else retention.known,
            out_of_domain=dict(
                zip(config.out_of_domain, prepared.out_of_domain, strict=True)
            ),
            population=config.population,
        )
        observer.compared(state.next_generation - 1)
    if saved is not None:
        saved()


def check_generations(config: RunConfig, folder: RunFolder) -> None:
    """Refuses fewer children than the run in a folder has already.

    Raises:
      BadInputError: gives both numbers.
    """
    asked, done = config.qd.num_generations, last_generation(folder.checkpoints)
    if asked < done:
        raise BadInputError(
            f"qd.num_generations is {asked}, but the run in {folder.path} has {done} "
            f"children already; ask for {done} or more, or start anew with "
            "run_dir=FOLDER."
        )


def is_done(config: RunConfig, folder: RunFolder, observer: Observer) -> bool:
    """True if nothing is left to do but the report; notes what is damaged.

    False too where a setting is another than at last: `evolve` then compares all
    inputs, and refuses those that make another run.
    """
    if not folder.is_finished or not is_complete(
        folder, config.qd.num_generations, observer.note
    ):
        return False
    facts = read_facts(folder.path)
    asked = (config.out_of_domain, config.population)
    if asked != (tuple(facts.out_of_domain.values()), facts.population):
        return False  # they were asked for, and it was interrupted
    config = with_commits(config, folder.path, download=False)
    last = load_config(folder.path / "config.yaml", [], RunConfig)
    free = ("run_dir", "logging", "mirror", "distributed")
    places = {name: getattr(last, name) for name in free}
    return config.model_copy(update=places) == last


def dry_run(
    config: RunConfig,
    folder: RunFolder,
    observer: Observer,
    relay: Any = None,
) -> Plan:
    """Plans a run, and checks all its inputs that are on this machine.

    Args:
      config: the settings.
      folder: open; what a run in it was begun with must be the same. Nothing is written
        into it.
      observer: hears of progress.
      relay: an `inference.relay.Leader` of the other processes that share the mesh, if
        there are any.

    Raises:
      BadInputError: `evolve` would refuse the run, in the same words.
    """
    config = with_commits(config, folder.path, download=False)
    check_trackers(config.logging)
    tasks, missing_data = find_tasks(config)
    check_splits(config, tasks)
    out_of_domain, lacking = find_out_of_domain(config, tasks)
    missing_data += lacking
    inputs, machine = find_inputs(config), this_machine()
    kind = open_kind(config, relay)
    if missing_data or not inputs.are_here:
        basis = inputs.basis(config)
        make_search(config, basis, config.tasks, () if missing_data else tasks)
        memory = kind.plan_memory(inputs.model, basis, machine)
        if inputs.are_here:
            memory.check(machine)
            check_gram_memory(config, inputs.model, machine)
        return make_plan(
            config, memory, machine, inputs, tasks, missing_data, None, out_of_domain
        )
    kind.check()
    prepared = kind.prepare(folder, observer, tasks)
    rehearse_search(config, prepared.search)
    seconds = kind.estimate_episode(prepared, observer)
    return make_plan(
        config, prepared.memory, machine, inputs, tasks, (), seconds, out_of_domain
    )


def open_kind(config: RunConfig, relay: Any = None) -> Kind:
    """The parts that differ between models; nothing of the other kind is imported.

    Raises:
      BadInputError: a setting is one of the other kind.
    """
    if kind_of(config) == IMAGES:
        from cycleqd_jax.runs.images import ImageRun

        return ImageRun(config)
    from cycleqd_jax.runs.text import TextRun

    return TextRun(config, relay)


def _racing(config: RunConfig, evaluator: Evaluator, folder: RunFolder) -> Evaluator:
    """The evaluator of candidates; everything else is evaluated without races."""
    if not config.racing.rungs:
        return evaluator
    return RacingEvaluator(
        evaluator,
        config.racing,
        record=recorded_verdicts(folder),
    )


def _accepted(
    config: RunConfig, evaluator: Evaluator, folder: RunFolder
) -> AcceptedReplies | None:
    """Right replies of the experts and of all children on record, if a search asks."""
    kind = search_class(config.search)
    if not kind.uses_accepted(config.qd, config.search_settings):
        return None
    found = AcceptedReplies(evaluator.tasks)
    for part in (EXPERTS_PART, trained_experts.PART, *folder.batches()):
        found.add(read_episodes(folder, part) or ())
    return found


def _state(
    config: RunConfig,
    prepared: Prepared,
    folder: RunFolder,
    checkpoints: Checkpoints,
    cached: comparison.CachedEvaluator,
    retention: TextRetention | None,
    observer: Observer,
) -> State:
    """The newest checkpoint that can be used, or the state that the experts make."""
    last, beyond = whole_batches(
        folder, logprobs=config.fitness.smooth or retention is not None
    )
    saved = checkpoints.restore(last=last, beyond=beyond, note=observer.note)
    if saved is None and folder.batches():
        raise BadInputError(
            f"run_dir: {folder.path} holds results of children, but no checkpoint; "
            "bring checkpoints/ back from a copy, or start anew with run_dir=FOLDER."
        )
    tasks, basis = prepared.task_names, prepared.basis
    # On resume these are read from the results.
    scores = comparison.expert_scores(cached, basis)
    is_conditioned = config.basis.conditioning != "none"
    trained = trained_experts.measure(basis, cached, is_conditioned=is_conditioned)
    names = basis.expert_names
    experts = [expert_genome(basis, k) for k in range(len(names))]
    rows = [[scores[expert_name(e)][task] for task in tasks] for e in names]
    known = {}  # a search without a parameter runs too where it is not needed
    if config.fitness.smooth:
        smooth = comparison.expert_smooth(cached, basis)
        known["smooth"] = np.asarray(smooth, np.float64)
    if retention is not None:
        kept = retention.kept()
        shares = [kept[expert_name(e)] for e in names]
        known["retention"] = np.asarray(shares, np.float64)
    state = prepared.search.init(experts, np.asarray(rows, np.float64), **known)
    if saved is not None:
        folder.drop_batches_from(saved.next_generation)
        return saved.into(state)
    trained_experts.note_losses(trained, scores, observer)
    checkpoints.save(state)
    return state
