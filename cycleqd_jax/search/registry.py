"""Search methods by name or import path."""

import importlib
import inspect

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.search.base import Search
from cycleqd_jax.search.cma_es import CMAESearch
from cycleqd_jax.search.cycleqd import CycleQD
from cycleqd_jax.search.gradient import GradientSearch
from cycleqd_jax.search.map_elites import MapElites
from cycleqd_jax.search.merges import MergeSearch
from cycleqd_jax.search.nsga2 import NSGA2
from cycleqd_jax.search.random import RandomSearch

SEARCHES: dict[str, type[Search]] = {
    "cycleqd": CycleQD,
    "cma_es": CMAESearch,
    "gradient": GradientSearch,
    "map_elites": MapElites,
    "nsga2": NSGA2,
    "random": RandomSearch,
    "merge": MergeSearch,
}


def search_class(name: str) -> type[Search]:
    """The class of a search method.

    Args:
      name: one of `SEARCHES`, or "package.module:Class" of a user's own.

    Raises:
      BadInputError: there is none, it cannot be imported, or it is no `Search`.
    """
    if name in SEARCHES:
        return SEARCHES[name]
    module_name, colon, class_name = name.partition(":")
    if not colon:
        raise BadInputError(
            f"search: {name!r} is unknown; expected {', '.join(SEARCHES)}, or an "
            "import path like package.module:Class."
        )
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    # A user's module may raise anything; the cause is kept.
    except Exception as err:
        raise BadInputError(
            f"search: {name} could not be imported ({err}); check that {module_name} "
            "is on Python's path and imports cleanly."
        ) from err
    if not (inspect.isclass(kind) and issubclass(kind, Search)):
        raise BadInputError(
            f"search: {name} is {kind!r}; expected a subclass of "
            "cycleqd_jax.search.base.Search."
        )
    if missing := sorted(kind.__abstractmethods__):
        raise BadInputError(
            f"search: {name} lacks the methods {', '.join(missing)} of "
            "cycleqd_jax.search.base.Search."
        )
    return kind
