"""The origin of a child: a start of the archives, or operators on two parents."""

from collections.abc import Sequence

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.qd.settings import Seed
from cycleqd_jax.reports.candidates import Child
from cycleqd_jax.search.cycleqd import CycleQD
from cycleqd_jax.search.registry import search_class


def operators(config: RunConfig) -> dict[str, str] | None:
    """The names of crossover and mutation; None for a search that does not breed."""
    if not _breeds(config):
        return None
    return {"crossover": config.qd.crossover, "mutation": config.qd.mutation}


def starts(config: RunConfig, children: Sequence[Child]) -> dict[str, Seed]:
    """The children that are seeds of the archives: name -> entry of `qd.seeds`."""
    seeds = config.qd.seeds if _breeds(config) else ()
    return {
        child.name: seeds[child.generation - 1]
        for child in children
        if child.generation <= len(seeds) and not child.parents
    }


def _breeds(config: RunConfig) -> bool:
    """True if children come from the seeds and operators of the section `qd`."""
    try:
        kind = search_class(config.search)
    except BadInputError:  # one's own may be elsewhere by now
        return False
    return getattr(kind, "ask", None) is CycleQD.ask
