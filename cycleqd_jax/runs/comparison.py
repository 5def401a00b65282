"""After the search: champions, the aggregated model, and all models side by side.

Champions are chosen on `validate`; `test` is only ever reported.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import pyarrow as pa

from cycleqd_jax.evaluation.base import ReferenceScore
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.genome import (
    Genome,
    base_genome,
    expert_genome,
    scaled_sum,
    uniform,
)
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.qd.aggregation import (
    Champion,
    aggregate_champions,
    choose_champions,
    choose_result,
)
from cycleqd_jax.qd.settings import AggregationSettings
from cycleqd_jax.runs import diverse, facts
from cycleqd_jax.runs.cached import CachedEvaluator
from cycleqd_jax.runs.checkpoints import state_fingerprint
from cycleqd_jax.runs.costs import run_cost
from cycleqd_jax.runs.facts import (
    ChampionFacts,
    ComparedModel,
    RunFacts,
    ScaledMergeFacts,
    TokenCost,
    write_facts,
)
from cycleqd_jax.runs.folder import PARTS, RunFolder
from cycleqd_jax.runs.names import (
    AGGREGATED,
    BASE,
    BEST_OF_ARCHIVE,
    BEST_OF_SEARCH,
    champion_name,
    expert_name,
    individual_name,
)
from cycleqd_jax.runs.out_of_domain import forget_final, measure
from cycleqd_jax.runs.results import EXPERTS_PART
from cycleqd_jax.runs.retention import (
    FINAL_PART,
    FIXED_PART,
    TextRetention,
    retention_facts,
)
from cycleqd_jax.search.base import Search, State
from cycleqd_jax.search.merges import SCALED, UNIFORM, best_factors, merges, scaled_name
from cycleqd_jax.tasks.base import Split, Task

# Parts of the results that depend on the final state of the search; a run that goes on
# to more generations makes them anew.
FINAL_PARTS = (
    "candidates-validate",
    "final-validate",
    "final-optimise",
    "final-test",
    FINAL_PART,
)


class Finalists(NamedTuple):
    """The result of the search.

    Attributes:
      champions: by group.
      beta: their weights in the aggregated model, by group.
      aggregated: its genome, or the only champion.
      best: id of the individual with the best mean on `optimise`.
      chosen: group whose champion is the result; None if that is the aggregated model.
    """

    champions: Mapping[str, Champion]
    beta: Mapping[str, float]
    aggregated: Individual
    best: int
    chosen: str | None


def expert_scores(cached: CachedEvaluator, basis: Basis) -> dict[str, dict[str, float]]:
    """Scores of the base and of the experts' genomes on `optimise`."""
    models = {BASE: base_genome(basis)} | _experts(basis)
    return cached.scores(EXPERTS_PART, models, Split.OPTIMISE)


def expert_smooth(cached: CachedEvaluator, basis: Basis) -> list[tuple[float, ...]]:
    """Smooth scores on `optimise` of the experts' genomes, K each, in their order."""
    models = _experts(basis)
    found = cached.smooth("experts-smooth", models, Split.OPTIMISE)
    return [found[name] for name in models]


def expert_retention(
    cached: CachedEvaluator, basis: Basis, texts: Sequence[str]
) -> TextRetention:
    """Measures the base and the experts' genomes on plain texts."""
    models = {BASE: base_genome(basis)} | _experts(basis)
    return TextRetention(texts, cached.texts("experts-retention", models, texts))


def choose_finalists(
    cached: CachedEvaluator,
    search: Search,
    state: State,
    tasks: Sequence[str],
    settings: AggregationSettings,
) -> Finalists:
    """Chooses one champion per group on `validate`, aggregates them, and chooses."""
    found, experts = search.champions(state), search.context.basis.expert_names
    count = max(settings.candidates, 1)
    groups = {name: best[:count] for name, best in found.contenders.items()}
    validated = None
    if settings.candidates:
        ids = sorted({one.individual for best in groups.values() for one in best})
        models = {individual_name(i, experts): state.bank.individual(i) for i in ids}
        scores = cached.scores("candidates-validate", models, Split.VALIDATE)
        validated = {
            i: [scores[individual_name(i, experts)][task] for task in tasks]
            for i in ids
        }
    champions = choose_champions(
        list(groups.values()), validated, by=settings.choose_by
    )
    result = aggregate_champions(
        state.bank,
        [c.contender.individual for c in champions],
        [c.contender.quality for c in champions],
    )
    chosen = next(iter(groups)) if len(groups) == 1 else None
    if settings.result == "validated" and chosen is None:
        models = {AGGREGATED: result.genome}
        [average] = cached.scores("final-validate", models, Split.VALIDATE).values()
        of_groups = {
            group: validated[champion.contender.individual]
            for group, champion in zip(groups, champions, strict=True)
        }
        chosen = choose_result([average[task] for task in tasks], of_groups)
    return Finalists(
        dict(zip(groups, champions, strict=True)),
        dict(zip(groups, result.beta.tolist(), strict=True)),
        result.genome,
        found.best,
        chosen,
    )


def compare(
    cached: CachedEvaluator,
    folder: RunFolder,
    search: Search,
    state: State,
    basis: Basis,
    tasks: Sequence[str],
    *,
    aggregation: AggregationSettings,
    factors: Sequence[float],
    texts: Sequence[str] = (),
    known: Sequence[ReferenceScore] = (),
    out_of_domain: Mapping[str, Task] = MappingProxyType({}),
    population: int = 0,
) -> None:
    """Scores all models on `optimise` and `test`; writes `state.json`.

    Also writes `archives.parquet` if the search has archives. `state.json` lists the
    models in the order of the report; `scored_as` says under which name a model's
    episodes on `optimise` are in the results.

    Args:
      cached: evaluates.
      folder: of the run.
      search: the method.
      state: of the finished search.
      basis: of the genomes.
      tasks: K names.
      aggregation: how champions are chosen.
      factors: of the scaled merge; the best on `optimise` is taken.
      texts: plain texts whose log-probability is measured; may be none.
      known: scores on all texts of models that need none any more.
      out_of_domain: entry of the config -> a task that the search did not see; its
        `test` problems are answered by all models.
      population: number of diverse individuals that play `test`, too.
    """
    summary, experts = search.summary(state), basis.expert_names
    _write_archives(folder, summary.archives, experts)
    final = choose_finalists(cached, search, state, tasks, aggregation)
    tried = cached.scores("merges-optimise", merges(basis, factors), Split.OPTIMISE)
    factor = _break_tie(cached, basis, best_factors(tried, factors))
    fixed = (
        {BASE: base_genome(basis)}
        | _experts(basis)
        | {UNIFORM: uniform(basis), SCALED: scaled_sum(basis, factor)}
    )
    best = BEST_OF_ARCHIVE if summary.archives else BEST_OF_SEARCH
    champions = {
        group: individual_name(champion.contender.individual, experts)
        for group, champion in final.champions.items()
    }
    scored_as = {
        SCALED: scaled_name(factor),
        best: individual_name(final.best, experts),
    }
    found = {best: state.bank.individual(final.best)}
    if len(champions) > 1:  # the sum of one champion is the champion
        found[AGGREGATED] = final.aggregated
        cached.scores("final-optimise", {AGGREGATED: final.aggregated}, Split.OPTIMISE)
    result = AGGREGATED
    if final.chosen is not None:
        result = champion_name(final.chosen)
        scored_as[result] = champions[final.chosen]
        chosen = final.champions[final.chosen].contender.individual
        found[result] = state.bank.individual(chosen)
    cached.scores("baselines-test", fixed, Split.TEST)
    cached.scores("final-test", found, Split.TEST)
    measured = {score.individual for score in known}
    others = {name: one for name, one in fixed.items() if name not in measured}
    kept = [*known, *cached.texts(FIXED_PART, others, texts)]
    kept += cached.texts(FINAL_PART, found, texts)
    measure(cached, folder, out_of_domain.values(), fixed, found)
    diverse.measure(cached, folder, state.bank, experts, population)
    run_facts = RunFacts(
        tasks=tuple(tasks),
        evaluated_children=state.next_generation - 1,
        state_fingerprint=state_fingerprint(state),
        models=tuple(
            ComparedModel(name=name, scored_as=scored_as.get(name, name))
            for name in (*fixed, *found)
        ),
        result=result,
        best=individual_name(final.best, experts),
        aggregation={
            group: ChampionFacts(
                individual=champions[group],
                quality=champion.contender.quality,
                validated=champion.validated,
                beta=final.beta[group],
            )
            for group, champion in final.champions.items()
        },
        scaled_merge=ScaledMergeFacts(
            factor=factor,
            tried={name: _mean(row) for name, row in sorted(tried.items())},
        ),
        search=dict(summary.facts),
        cost={
            phase: TokenCost(
                tokens_forward=cost.tokens_forward,
                tokens_backward=cost.tokens_backward,
            )
            for phase, cost in run_cost(folder.path).items()
            if cost.tokens
        },
        retention=retention_facts(kept, texts, BASE),
        out_of_domain={task.name: entry for entry, task in out_of_domain.items()},
        population=population,
    )
    write_facts(folder.path, run_facts)


def _break_tie(cached: CachedEvaluator, basis: Basis, tied: Sequence[float]) -> float:
    """The best on `validate` of factors that tie on `optimise`, or the lowest.

    Few discrete problems make ties common, and a baseline must not lose by them.
    """
    if len(tied) == 1:
        return tied[0]
    genomes = {scaled_name(factor): scaled_sum(basis, factor) for factor in tied}
    scores = cached.scores("merges-validate", genomes, Split.VALIDATE)
    return best_factors(scores, tied)[0] if scores else tied[0]


def forget_final_parts(folder: RunFolder) -> None:
    """Removes what depends on the final state, before the search goes on."""
    # state.json goes first: it says that the run is finished.
    (folder.path / facts.NAME).unlink(missing_ok=True)
    for kind in PARTS:
        for part in FINAL_PARTS:
            folder.part(kind, part).unlink(missing_ok=True)
    forget_final(folder)
    diverse.forget(folder)


def _experts(basis: Basis) -> dict[str, Genome]:
    names = enumerate(basis.expert_names)
    return {expert_name(expert): expert_genome(basis, k) for k, expert in names}


def _mean(by_task: Mapping[str, float]) -> float:
    return math.fsum(by_task.values()) / len(by_task)


def _write_archives(
    folder: RunFolder, rows: Sequence[Mapping], experts: Sequence[str]
) -> None:
    if not rows:
        folder.part("", "archives").unlink(missing_ok=True)
        return
    named = [
        dict(row) | {"individual": individual_name(row["individual"], experts)}
        for row in rows
    ]
    folder.write_part("", "archives", pa.Table.from_pylist(named))
