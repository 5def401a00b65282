"""Tasks that a search does not see; the compared models answer them when it is over.

Their problems of `test` are answered by the base, the experts, the merges (before) and
by what the search found (after). In the results these episodes have the split
`out_of_domain`, so that no mean over the tasks of the search has them in it. The parts
that hold them are named by a hash of the task, so tasks may come and go when a run is
resumed: what was answered stays, and a task that has changed is answered anew.

Source: CycleQD (arXiv 2410.14735), table 3, reports such tasks beside its own.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping

from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.runs import facts
from cycleqd_jax.runs.cached import CachedEvaluator
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.source_hashes import task_judges
from cycleqd_jax.tasks.base import Task

SPLIT = "out_of_domain"  # in the results
_BEFORE, _AFTER = "fixed-test", "final-test"  # a part that ends so is of phase "test"
_START = "out-of-domain"


def measure(
    cached: CachedEvaluator,
    folder: RunFolder,
    tasks: Iterable[Task],
    before: Mapping[str, Individual],
    after: Mapping[str, Individual],
) -> None:
    """Has all models answer all tasks, as far as they have not yet.

    Meanwhile the run is not finished: one that is interrupted here goes on here.

    Args:
      cached: evaluates.
      folder: of the run.
      tasks: that the evaluator has as `further`.
      before: models that the search has no part in, by name.
      after: models that the search found, by name.
    """
    for task in tasks:
        digest = _digest(task)
        for models, end in ((before, _BEFORE), (after, _AFTER)):
            part = f"{_START}-{task.name}-{digest}-{end}"
            folder.forget_parts(f"{_START}-{task.name}-{'?' * len(digest)}-{end}", part)
            if not folder.part("results", part).is_file():
                (folder.path / facts.NAME).unlink(missing_ok=True)
            cached.further(part, models, task, SPLIT)


def forget_final(folder: RunFolder) -> None:
    """Removes what the search's models answered, before the search goes on."""
    folder.forget_parts(f"{_START}-*-{_AFTER}")


def _digest(task: Task) -> str:
    """A hash of the task's problems, settings and judges."""
    judges = task_judges(type(task))
    judges |= task_judges(getattr(task, "examples_from", type(task)))
    content = json.dumps([task.fingerprint, sorted(judges.items())])
    return hashlib.sha256(content.encode()).hexdigest()[:12]
