"""Tasks of lm-evaluation-harness in a search: splits, one metric, right answers."""

import dataclasses
import hashlib
import inspect
import json
import numbers
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lm_eval.api.task import Task
from lm_eval.api.utils import maybe_delimit
from lm_eval.tasks._index import Kind, TaskIndex

from cycleqd_jax.chat import Chat, Message
from cycleqd_jax.errors import BadInputError, RunError, show
from cycleqd_jax.files import parse_section
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.base import Outcome, Problem, Result, Split, TaskSettings
from cycleqd_jax.tasks.data import seeded_splits
from cycleqd_jax.tasks.harness.load import (
    VERSION,
    file_hashes,
    find_tasks,
    load_task,
    problem_ids,
    reason,
)
from cycleqd_jax.tasks.harness.settings import HarnessOptions
from cycleqd_jax.tasks.harness.task import HarnessTask, metric_name

_PROTOCOL = 1  # raised when prompts or verdicts change
_PLACES = ("dataset_kwargs", "metadata")  # of a task's config; the content is hashed


class SearchTask(HarnessTask):
    """A task `lm_eval:TASK`; see `cycleqd_jax.tasks.base.Task`.

    Attributes:
      source: TASK, the name of a task or group, or the path of a YAML file.
      options: the task's settings.
      fingerprint: hex SHA-256 of all that decides problems and verdicts.
    """

    source: ClassVar[str]
    free_options: ClassVar = ("include",)  # the content is hashed

    def __init__(self, settings: TaskSettings):
        """Loads the data; asks nothing.

        Raises:
          BadInputError: a setting is wrong, or the task is not one for a search.
          MissingDataError: the data are not here and could not be downloaded.
        """
        self._entry = f"lm_eval:{self.source}"
        key = f"task_settings.{self._entry}"
        self.options = parse_section(key, settings.options, HarnessOptions)
        include, file = list(self.options.include), pathlib.Path(self.source)
        codes = file_hashes(include, "**/*.py")
        if file.suffix in (".yaml", ".yml"):
            name, file = _name_in(file), file.expanduser()
            manager = find_tasks([], include)
            codes += file_hashes([str(file.parent)], "*.py")
        else:
            name, manager = self.source, find_tasks([self.source], include)
        loaded = load_task(self.source, manager, unsafe_code=False)["tasks"]
        self._metrics = {n: self._choose_metric(t) for n, t in loaded.items()}
        ids = seeded_splits(name, problem_ids(loaded), settings.sizes, settings.seed)
        super().__init__(name, loaded, self.options, ids)
        self._problems = {
            split: tuple(
                dataclasses.replace(p, answer=self._target(p.id)) for p in problems
            )
            for split, problems in self._problems.items()
        }
        for leaf in loaded:
            self._check_metric(leaf)
        self.fingerprint = self._make_fingerprint(codes, ids)

    def dialogue(self, problem: Problem) -> Sequence[Message]:
        """A right conversation.

        Raises:
          BadInputError: none is known.
        """
        if (known := self.reference(problem)) is None:
            raise BadInputError(
                f"tasks: {problem.id} has no right conversation to learn from, because "
                "its prompt is no chat or its answer is not known."
            )
        return known

    def reference(self, problem: Problem) -> Sequence[Message] | None:
        """A right conversation; None for plain text, or where no answer is known."""
        messages = self.questions(problem)[0].messages
        if not self.options.apply_chat_template or not problem.answer:
            return None
        opening = self.opening(problem)
        begun = "" if len(opening) == len(messages) else messages[-1]["content"]
        reply = maybe_delimit(begun, problem.answer.strip())
        return (*opening, {"role": "assistant", "content": reply})

    async def run(self, problem: Problem, chat: Chat, sandbox: Sandbox) -> Result:
        """One episode, judged by the harness's filters and metrics.

        Raises:
          RunError: the task's own code fails, or its metric is no share.
        """
        responses = await self.responses(problem, chat)
        metrics = self._named(problem.id, responses)
        name = self._metrics[problem.id.rpartition("/")[0]]
        value = metrics.get(name)
        if not _is_share(value):
            raise RunError(
                f"Task {self.name}, problem {problem.id}: the metric {name} is "
                f"{show(value)}; expected a number from 0 to 1."
            )
        outcome = {0: Outcome.WRONG, 1: Outcome.SOLVED}.get(value, Outcome.SCORED)
        first = responses[0][0]
        return Result(
            outcome,
            first if isinstance(first, str) else json.dumps(responses),
            f"{name} is {value:g}; {problem.answer!r} was expected",
            turns=sum(map(len, responses)),
            metrics={
                k: float(v) for k, v in metrics.items() if isinstance(v, numbers.Real)
            },
            share=float(value),
        )

    def _named(self, key: str, responses: Sequence[list[Any]]) -> dict[str, Any]:
        """All metrics of one problem, by full name."""
        judged = self.judge(key, responses)
        return {metric_name(*pair): value for pair, value in judged.items()}

    def _choose_metric(self, task: Task) -> str:
        """The full name of the metric that is optimised.

        Raises:
          BadInputError: the task has no such metric, or it is better if lower.
        """
        better = [m for m, higher in task.higher_is_better().items() if higher]
        filters = [one.name for one in task._filters]
        known = {m: metric_name(m, filters[0]) for m in better}
        full = [metric_name(m, kind) for kind in filters for m in better]
        known |= {name: name for name in full}
        if not known:
            raise BadInputError(
                f"tasks: {self._entry} has no metric that is better if higher, which "
                "a search needs; measure it after the run, with experiments.language."
            )
        wanted = self.options.metric or full[0]
        if wanted not in known:
            raise BadInputError(
                f"task_settings.{self._entry}.metric: {task.task_name} has no metric "
                f"{wanted!r} that is better if higher; expected {' or '.join(full)}."
            )
        return known[wanted]

    def _check_metric(self, leaf: str) -> None:
        """Judges empty responses, so that a metric that is no share is found now.

        Raises:
          BadInputError: the metric is no number from 0 to 1.
        """
        key = next((k for k in self._requests if k.rpartition("/")[0] == leaf), None)
        if key is None:
            return
        empty = {"generate_until": "", "loglikelihood": (-1.0, False)}
        responses = [
            [empty.get(request.request_type, -1.0)] * len(questions)
            for request, questions in zip(
                self._requests[key], self._questions[key], strict=True
            )
        ]
        name = self._metrics[leaf]
        try:
            metrics = self._named(key, responses)
        except RunError as err:
            raise BadInputError(str(err)) from err
        if not _is_share(metrics.get(name)):
            usable = [n for n, value in metrics.items() if _is_share(value)]
            raise BadInputError(
                f"task_settings.{self._entry}.metric: {name} of {leaf} is "
                f"{show(metrics.get(name))} for one problem; expected a number from 0 "
                f"to 1, like {', '.join(usable) or 'no metric of this task'}."
            )

    def _target(self, key: str) -> str | None:
        """The right answer as text; None where it is not known."""
        task = self.leaves[key.rpartition("/")[0]]
        doc = self._requests[key][0].doc
        if getattr(task, "multiple_input", 0):  # the choices are in the prompts
            return None
        target = task.doc_to_target(doc)
        if isinstance(target, list) and target:
            target = target[0]
        if isinstance(target, int) and task.get_config("doc_to_choice") is not None:
            choices = task.doc_to_choice(doc)
            return choices[target] if 0 <= target < len(choices) else None
        return target if isinstance(target, str) else None

    def _make_fingerprint(
        self, codes: Sequence[list[str]], ids: Mapping[Split, Sequence[str]]
    ) -> str:
        asked = {
            key: [q for own in self._questions[key] for q in own]
            for key in self._requests
        }
        docs = {key: own[0].doc for key, own in self._requests.items()}
        configs = {leaf: task.dump_config() for leaf, task in self.leaves.items()}
        for config in configs.values():
            for place in _PLACES:
                config.pop(place, None)
        content = [
            [_PROTOCOL, VERSION, self._metrics, ids, configs, docs],
            {
                key: [[q[0], q[1], vars(q[2])] for q in own]
                for key, own in asked.items()
            },
            codes,
        ]
        text = json.dumps(content, sort_keys=True, default=_plain)
        return hashlib.sha256(text.encode()).hexdigest()


def search_task(source: str) -> type[SearchTask]:
    """The class of the task `lm_eval:<source>`."""
    own = {"source": source, "__module__": SearchTask.__module__}
    return type("SearchTask", (SearchTask,), own)


def _name_in(file: pathlib.Path) -> str:
    """The name of the task in a file.

    Raises:
      BadInputError: the file is missing, or has no task.
    """
    try:
        entry = TaskIndex.entry_from_path(file)
    except Exception as err:  # of YAML, or of its shape
        raise BadInputError(
            f"tasks: {file} is no task file of lm-evaluation-harness ({reason(err)})."
        ) from err
    if entry is None or not isinstance(entry.name, str) or entry.kind is Kind.GROUP:
        raise BadInputError(
            f"tasks: {file} is missing or has no task; expected a task file of "
            "lm-evaluation-harness, or the name of a group and its folder in include."
        )
    return entry.name


def _plain(value: Any) -> str:
    """Text for what JSON cannot hold; it is the same in every process."""
    try:
        return inspect.getsource(value)
    except (TypeError, OSError):
        return str(value) if isinstance(value, numbers.Number) else str(type(value))


def _is_share(value: Any) -> bool:
    return isinstance(value, numbers.Real) and 0 <= value <= 1
