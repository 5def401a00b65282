"""The questions of a run: prompts of its problems, which its results do not hold.

They come from the run's tasks, made again where that is possible. A task is asked only
if it is as it was: its fingerprint covers its problems and prompts.
"""

from collections.abc import Mapping

from cycleqd_jax.errors import BadInputError, MissingDataError, own_code
from cycleqd_jax.runs.fingerprints import stored_fingerprints
from cycleqd_jax.runs.kinds import predicts_masks
from cycleqd_jax.runs.opened import OpenedRun
from cycleqd_jax.runs.tasks import make_tasks
from cycleqd_jax.tasks.base import Split

_SPLITS = (Split.OPTIMISE, Split.TEST)
_UNKNOWN = "the task has no such problem"


class Questions:
    """The prompts of a run's problems; a task is made when it is first asked for.

    Nothing is downloaded, and a reason names nothing of this machine.
    """

    def __init__(self, opened: OpenedRun):
        """Takes a run, finished or in progress."""
        self._opened = opened
        self._known: dict[str, Mapping[str, str]] = {}
        self._reasons: dict[str, str] = {}

    def find(self, task: str, problem: str) -> str | None:
        """The prompt of one problem, or None; `why` says why."""
        if task not in self._opened.tasks:
            return None
        if task not in self._known:
            self._known[task] = self._read(task)
        return self._known[task].get(problem)

    def why(self, task: str) -> str:
        """The reason why prompts of a task were not found, as half a sentence."""
        return self._reasons.get(task, _UNKNOWN)

    def _read(self, task: str) -> Mapping[str, str]:
        opened, config = self._opened, self._opened.config
        if predicts_masks(config):
            self._reasons[task] = "its problems are images"
            return {}
        entry = dict(zip(opened.tasks, config.tasks, strict=True))[task]
        try:
            stored = stored_fingerprints(opened.path).get("tasks", {}).get(task)
            [made] = make_tasks(
                [entry], config.problems, config.task_settings, download=False
            )
            with own_code(f"Task {task}", type(made), "mend it", BadInputError):
                same = made.fingerprint == stored
                every = [p for split in _SPLITS for p in made.problems(split)]
        except MissingDataError:
            self._reasons[task] = "its data are not on the machine that made this page"
            return {}
        except BadInputError:
            self._reasons[task] = "the task cannot be made again"
            return {}
        if not same:
            self._reasons[task] = "the task is not what it was when the run was made"
            return {}
        return {problem.id: str(problem.prompt) for problem in every}
