"""Carries out the runs of a comparison, one after the other.

Each run has a folder of its own, like one that `experiments.agent_skills` makes, and is
resumed like one. What is finished is not touched again, and what runs have in common is
evaluated once (`sharing`). With a budget a run is first
carried out with one batch of children; what they cost decides how many there will be.
"""

from collections.abc import Sequence

import jax

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.individuals import Adapter
from cycleqd_jax.progress import Observer
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.reports import build
from cycleqd_jax.runs import run
from cycleqd_jax.runs.cached import CachedEvaluator
from cycleqd_jax.runs.costs import part_costs
from cycleqd_jax.runs.facts import read_facts
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.runs.results import read_episodes
from cycleqd_jax.runs.setup import open_evaluator, prepare
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.study import population
from cycleqd_jax.study.records import Records
from cycleqd_jax.study.results import ADAPTER_PART, method_cost
from cycleqd_jax.study.settings import AdapterMethod, Study
from cycleqd_jax.study.sharing import share_parts
from cycleqd_jax.tasks.base import Split


def carry_out(study: Study, records: Records, observer: Observer) -> None:
    """Runs what is not finished yet and not on record.

    Raises:
      BadInputError: an input of a run is wrong.
      RunError: a run cannot go on; it can be resumed.
    """
    first = study.config.seeds[0]
    cells = [cell for cell in study.cells() if not records.covers(*cell)]
    adapters = [n for n, m in study.methods.items() if isinstance(m, AdapterMethod)]
    adapters = [n for n in adapters if not records.covers(n, first)]
    every = len(cells) + len(adapters)
    for number, (name, seed) in enumerate(cells, 1):
        where = f"{number} of {every}: {name}, seed {seed}"
        _run(study, name, seed, cells, observer, where)
        records.keep(name, seed)
    for number, name in enumerate(adapters, len(cells) + 1):
        observer.phase(f"{number} of {every}: {name}")
        _evaluate_adapter(study, name, observer)
        records.keep(name, first)


def _run(
    study: Study,
    name: str,
    seed: int,
    cells: Sequence[tuple[str, int]],
    observer: Observer,
    where: str,
) -> None:
    config = study.run_config(name, seed)
    with RunFolder(config.run_dir, resume=True) as folder:
        share_parts(study, name, seed, folder, cells)
        if study.config.budget is not None:
            config = _within_budget(config, study.config.budget, folder, observer)
        run.check_generations(config, folder)
        if not run.is_done(config, folder, observer):
            observer.phase(where)
            run.evolve(config, folder, observer)
            observer.phase("writing the report")
            build.write_report(folder.path)
            # Each program takes memory maps, of which a process may have some 65,000.
            jax.clear_caches()
        if study.config.population:
            _score_population(study, config, folder, observer)


def _within_budget(
    config: RunConfig, budget: int, folder: RunFolder, observer: Observer
) -> RunConfig:
    """The config with as many children as the budget allows.

    They are at least those of the pilot, and at most as many as the config has. Their
    number is kept beside the run, since the run goes on to more children.
    """
    most, kept = config.qd.num_generations, folder.path.with_suffix(".json")
    if not kept.exists():
        first, number = _pilot(config.qd)
        pilot = _with_children(config, number)
        run.check_generations(pilot, folder)
        if read_facts(folder.path) is None:
            said = f"{number} children, to see what one costs"
            observer.phase(f"{folder.path}: {said}")
            run.evolve(pilot, folder, observer, tests=False)
        left = budget - method_cost(folder.path).tokens
        last = part_costs(folder.path)[f"batch-{first:06}"].tokens
        child = last / (number - first + 1)
        children = min(most, number + max(0, int(left / child)))
        files.write_sealed(kept, {"num_generations": children})
    return _with_children(config, files.read_sealed(kept)["num_generations"])


def _pilot(qd: QDSettings) -> tuple[int, int]:
    """First and last child of the batch that shows what a child costs.

    Seeds are merges without a search, which cost less than other children. A batch that
    has more than a tenth of them does not count.
    """
    batch, seeds = qd.children_per_batch, len(qd.seeds)
    before = 0 if 10 * seeds <= batch else -(-seeds // batch) * batch
    if before + 1 > qd.num_generations:
        before = 0
    return before + 1, min(before + batch, qd.num_generations)


def _with_children(config: RunConfig, number: int) -> RunConfig:
    qd = config.qd.model_copy(update={"num_generations": number})
    return config.model_copy(update={"qd": qd})


def _score_population(
    study: Study, config: RunConfig, folder: RunFolder, observer: Observer
) -> None:
    """Scores diverse individuals, and samples of the result, on `test`."""
    samples = range(study.config.population)
    parts = [population.DIVERSE_PART, *map(population.sample_part, samples)]
    if all(_is_there(folder, part) for part in parts):
        return
    opened = open_run(folder.path, finished=True)
    names = population.diverse(folder.path, study.config.population)
    result = opened.facts.result
    prepared = prepare(config, folder, observer)
    sandbox = make_sandbox(config.sandbox)
    with open_evaluator(config, prepared, sandbox) as evaluator:
        cached = CachedEvaluator(evaluator, folder, observer)
        chosen = {name: opened.individual(name) for name in names}
        cached.scores(population.DIVERSE_PART, chosen, Split.TEST)
        greedy, drawn = evaluator.tasks, opened.individual(result)
        try:
            for sample in samples:
                evaluator.tasks = tuple(
                    population.Sampled(task, study.config.temperature, sample)
                    for task in greedy
                )
                part, name = population.sample_part(sample), f"{result}/{sample}"
                cached.scores(part, {name: drawn}, Split.TEST)
        finally:
            evaluator.tasks = greedy


def _evaluate_adapter(study: Study, name: str, observer: Observer) -> None:
    method, config = study.methods[name], study.reference
    with RunFolder(study.folder / name, resume=True) as folder:
        if _is_there(folder, ADAPTER_PART):
            return
        kind = run.open_kind(config)
        kind.check()
        prepared = kind.prepare(folder, observer)
        with kind.evaluator(prepared, observer) as evaluator:
            cached = CachedEvaluator(evaluator, folder, observer)
            cached.scores(ADAPTER_PART, {name: Adapter(method.adapter)}, Split.TEST)


def _is_there(folder: RunFolder, part: str) -> bool:
    try:
        return read_episodes(folder, part) is not None
    except BadInputError:
        return False
