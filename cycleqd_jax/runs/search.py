"""The search method of a run, made from its config."""

import inspect
from collections.abc import Sequence

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError, own_code
from cycleqd_jax.evaluation.accepted import one_reply_problems
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.qd.operators import try_operators
from cycleqd_jax.search.base import Context, Search
from cycleqd_jax.search.checked import CheckedSearch, is_own
from cycleqd_jax.search.registry import search_class
from cycleqd_jax.search.rehearsal import rehearse
from cycleqd_jax.tasks.base import Split, Task, reference


def make_search(
    config: RunConfig,
    basis: Basis,
    names: Sequence[str],
    tasks: Sequence[Task] = (),
) -> Search:
    """The search method that a config names.

    Args:
      config: the settings.
      basis: of the genomes, or its shapes.
      names: of the tasks.
      tasks: made; empty where their data are missing, for a search that only plans.

    Raises:
      BadInputError: there is none such, its settings are wrong, it cannot have smooth
        scores or retention, or its requests could not be answered: it needs `train`
        problems with a reference answer and no task has any, or gradients that cannot
        be computed.
    """
    kind, options = search_class(config.search), config.search_settings
    train = _train_problems(config, kind, basis, tasks)
    if tasks and kind.uses_accepted(config.qd, config.search_settings):
        _check_accepted(config.search, tasks)
    if config.fitness.smooth:
        _check_smooth(config.search, kind, tasks)
    if config.retention.descriptor and not _takes(kind, "retention"):
        raise BadInputError(
            f"retention.descriptor: the search {config.search} has no archives that "
            "take retention; choose cycleqd or map_elites, give its method init a "
            "parameter retention=None, or set retention.descriptor to false."
        )
    with own_code(f"search: {config.search}", kind, "mend it", BadInputError):
        search = kind(
            Context(config.qd, options, basis, tuple(names), config.tasks, train)
        )
    return CheckedSearch(search, config.search) if is_own(kind) else search


def rehearse_search(config: RunConfig, search: Search) -> None:
    """Tries a user's own search and operators, before a run.

    See `search.rehearsal.rehearse` and `qd.operators.try_operators`.
    """
    qd = config.qd
    try_operators(qd.custom_crossover, qd.custom_mutation, search.context.basis)
    rehearse(
        search,
        config.qd.children_per_batch,
        config.qd.num_generations,
        smooth=config.fitness.smooth,
        retention=config.retention.descriptor,
    )


def _takes(kind: type[Search], parameter: str) -> bool:
    return parameter in inspect.signature(kind.init).parameters


def _check_smooth(name: str, kind: type[Search], tasks: Sequence[Task]) -> None:
    if not _takes(kind, "smooth"):
        raise BadInputError(
            f"fitness.smooth: the search {name} takes no smooth scores; give its "
            "method init a parameter smooth=None, or set fitness.smooth to false."
        )
    known = (
        reference(task, problem) is not None
        for task in tasks
        for problem in task.problems(Split.OPTIMISE)
    )
    if tasks and not any(known):
        raise BadInputError(
            "fitness.smooth: no task knows the right answer of an optimise problem; "
            "set it to false."
        )


def _check_accepted(name: str, tasks: Sequence[Task]) -> None:
    if not any(map(one_reply_problems, tasks)):
        raise BadInputError(
            f"the search {name} learns from accepted replies, but no optimise problem "
            f"of {', '.join(task.name for task in tasks)} can be solved by one reply; "
            "let it learn from known answers."
        )


def _train_problems(
    config: RunConfig, kind: type[Search], basis: Basis, tasks: Sequence[Task]
) -> dict[str, tuple[str, ...]]:
    """The problems that requests may name, of the tasks that know right answers.

    Empty for a search that makes no requests.
    """
    if kind.uses_gradients(config.qd, config.search_settings):
        from cycleqd_jax.inference.gradients import check_differentiable

        mesh = config.engine.mesh
        check_differentiable(basis, mesh.data * mesh.tensor)
    setting = kind.uses_train(config.qd, config.search_settings)
    if setting is None:
        return {}
    found = {task.name: _with_reference(task) for task in tasks}
    known = {name: ids for name, ids in found.items() if ids}
    if tasks and not known:
        raise BadInputError(
            f"{setting} needs train problems with known answers, but none of the tasks "
            f"{', '.join(found)} has any; set problems.train above 0, or "
            "choose another operator or search if the tasks have no known answers."
        )
    return known


def _with_reference(task: Task) -> tuple[str, ...]:
    """Ids of the `train` problems with a reference answer."""
    found = task.problems(Split.TRAIN)
    return tuple(p.id for p in found if reference(task, p) is not None)
