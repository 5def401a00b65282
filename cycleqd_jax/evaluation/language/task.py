"""Language retention: the tasks of lm-evaluation-harness, on our engine.

A model that learns agent skills must not forget language. Any task of the harness
(EleutherAI/lm-evaluation-harness) can be run, with prompts, metrics and filters its
own; only the model is ours. Several individuals are asked the same at once.

The harness is the optional extra `language`, imported when it is needed.
"""

import difflib
import functools
import importlib.metadata
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from cycleqd_jax.errors import (
    BadInputError,
    CycleQDError,
    MissingDataError,
    RunError,
)
from cycleqd_jax.evaluation.language.engine import Panel
from cycleqd_jax.evaluation.language.quiet import quiet, seeded
from cycleqd_jax.evaluation.language.scores import Score, task_scores
from cycleqd_jax.inference.requests import RequestError
from cycleqd_jax.models.tokenizer import ChatTokenizer

EXTRA = "pip install 'cycleqd-jax[language]'"
DEFAULT_TASKS = (
    "mmlu",
    "bbh",
    "gsm8k",
    "commonsense_qa",
    "rte",
    "sst2",
    "coqa",
)
# Asked for by default too, by harnesses that have it.
OPTIONAL_TASKS = ("bigcodebench",)
# What commands have sentences for, or what is a fault of the engine's.
_OURS = (CycleQDError, RequestError, jax.errors.JaxRuntimeError, MemoryError)


class Protocol(NamedTuple):
    """How tasks are put to models.

    Attributes:
      limit: problems per task at most, None for all.
      num_fewshot: examples in front of each problem, None for the task's own number.
      apply_chat_template: whether prompts are chats.
      system_instruction: the system's message, or the first line without a template.
      fewshot_as_multiturn: whether examples are turns of the chat.
      chat_template_args: for the chat template.
      max_length: tokens of the longest context, None for the model's own.
      seed: of the choice of examples, and of tasks that draw.
      bootstrap_iters: of standard errors that have no formula; 0 for no errors at all.
      unsafe_code: whether tasks may run what the model wrote, with this user's rights.
    """

    limit: int | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool = True
    chat_template_args: Mapping[str, Any] = {}
    max_length: int | None = None
    seed: int = 1234
    bootstrap_iters: int = 1000
    unsafe_code: bool = False


class Speaker(NamedTuple):
    """What the harness must know of a model.

    Attributes:
      tokenizer: the model's.
      max_length: tokens of the longest context that it was made for.
    """

    tokenizer: ChatTokenizer
    max_length: int


def harness_version() -> str:
    """The installed version.

    Raises:
      BadInputError: there is none.
    """
    try:
        import lm_eval  # noqa: F401
    except ImportError as err:
        raise BadInputError(
            f"language: lm-evaluation-harness cannot be imported ({err}); install it "
            f"with {EXTRA}"
        ) from err
    return importlib.metadata.version("lm_eval")


class Harness:
    """The installed lm-evaluation-harness.

    Attributes:
      version: of it.
    """

    def __init__(self, protocol: Protocol, include: Sequence[str] = ()):
        """Finds all tasks.

        Args:
          protocol: how they are put.
          include: folders with task files of one's own.

        Raises:
          BadInputError: the harness is not installed.
        """
        self.version = harness_version()
        self._protocol = protocol
        self._include = list(include)
        self._loaded: dict[str, dict[str, Any]] = {}

    def default_tasks(self) -> tuple[str, ...]:
        """What is run where nothing is named."""
        known = [name for name in OPTIONAL_TASKS if name in self._all.task_index]
        return (*DEFAULT_TASKS, *known)

    def check(self, names: Sequence[str]) -> None:
        """All of them are tasks, groups or tags.

        Raises:
          BadInputError: one is not.
        """
        for name in names:
            if name in self._own.task_index or name in self._all.task_index:
                continue
            near = difflib.get_close_matches(name, self._all.all_tasks, n=3)
            meant = f"did you mean {', '.join(near)}? " if near else ""
            raise BadInputError(
                f"tasks: lm-evaluation-harness {self.version} has no task, group or "
                f"tag {name!r}; {meant}list them with: python -m lm_eval ls tasks"
            )

    def load(self, name: str) -> dict[str, Any]:
        """A task, or the tasks of a group or tag, with their data; kept for next time.

        Args:
          name: was checked.

        Returns:
          What `run` takes.

        Raises:
          MissingDataError: data are not here and cannot be fetched.
          BadInputError: the task cannot be used.
        """
        if name in self._loaded:
            return self._loaded[name]
        # Own tasks may build on others, so what is there alone need not be enough.
        manager = self._all if name not in self._own.task_index else self._own
        try:
            with quiet():
                try:
                    loaded = manager.load([name])
                except KeyError:
                    loaded = self._all.load([name])
        except Exception as err:  # the hub's, the harness's, a task's own: any kind
            raise _load_error(name, err) from err
        for task in loaded["tasks"].values():
            self._check_loaded(task)
        self._loaded[name] = loaded
        return loaded

    def run(
        self, name: str, loaded: dict[str, Any], speaker: Speaker, panel: Panel
    ) -> list[list[Score]]:
        """Every individual's scores.

        Args:
          name: as it was asked for.
          loaded: from `load`.
          speaker: what the individuals have in common.
          panel: answers for them.

        Raises:
          BadInputError: a task asks for what the engine does not do.
          RunError: a task, or a metric of its, fails.
        """
        from cycleqd_jax.evaluation.language.lm import (
            EngineLM,
            Shared,
            harness_tokenizer,
        )

        protocol = self._protocol
        tokenizer = harness_tokenizer(speaker.tokenizer)
        if tokenizer.eos_token_id is None:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(
                speaker.tokenizer.eos_id
            )
        shared = Shared(panel)
        scores = []
        for individual in range(len(panel.individuals)):
            lm = EngineLM(
                shared,
                tokenizer,
                max_length=protocol.max_length or speaker.max_length,
                individual=individual,
                chat_template_args=protocol.chat_template_args,
                seed=protocol.seed,
            )
            try:
                scores.append(task_scores(name, self._evaluate(lm, loaded)))
            except _OURS:
                raise
            except Exception as err:  # a task's own code may raise any kind
                raise RunError(
                    f"tasks: {name} fails in lm-evaluation-harness {self.version} "
                    f"({_reason(err)})."
                ) from err
        return scores

    @functools.cached_property
    def _own(self) -> Any:
        """The tasks of one's own alone: few are found at once, thousands are not."""
        return self._manager(include_defaults=False)

    @functools.cached_property
    def _all(self) -> Any:
        return self._manager(include_defaults=True)

    def _manager(self, include_defaults: bool) -> Any:
        from lm_eval.tasks import TaskManager

        with quiet():
            return TaskManager(
                include_path=self._include or None, include_defaults=include_defaults
            )

    def _check_loaded(self, task: Any) -> None:
        if getattr(task, "MULTIMODAL", False):
            raise BadInputError(
                f"tasks: {task.task_name} shows images or plays sounds; expected tasks "
                "of text."
            )
        if getattr(task, "UNSAFE_CODE", False) and not self._protocol.unsafe_code:
            raise BadInputError(
                f"tasks: {task.task_name} runs what the model wrote, outside of any "
                "sandbox; leave it out, or allow it with unsafe_code=true in a "
                "container of its own."
            )

    def _evaluate(self, lm: Any, loaded: dict[str, Any]) -> dict[str, Any]:
        """One pass of the harness, seeded as its own command seeds it."""
        from lm_eval import evaluator

        protocol = self._protocol
        for task in loaded["tasks"].values():
            own = task.get_config("num_fewshot")
            if protocol.num_fewshot is not None and own != 0:
                task.set_config(key="num_fewshot", value=protocol.num_fewshot)
            elif own is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=protocol.seed)
        with quiet(), seeded(protocol.seed):
            return evaluator.evaluate(
                lm,
                loaded,
                limit=protocol.limit,
                bootstrap_iters=protocol.bootstrap_iters,
                log_samples=False,
                system_instruction=protocol.system_instruction,
                apply_chat_template=protocol.apply_chat_template,
                fewshot_as_multiturn=protocol.fewshot_as_multiturn,
                confirm_run_unsafe_code=protocol.unsafe_code,
            )


def _load_error(name: str, err: Exception) -> BadInputError:
    """What to say of an exception while a task was loaded."""
    reason = _reason(err)
    task = _task_in(err)
    path = getattr(task, "DATASET_PATH", None)
    if path is None:
        return BadInputError(f"tasks: {name} cannot be loaded ({reason}).")
    part = getattr(task, "DATASET_NAME", None)
    given = task.config.dataset_kwargs or {}
    if given.get("data_files") or given.get("data_dir"):
        which = given.get("data_files") or given.get("data_dir")
        return MissingDataError(
            f"tasks: the data of {task.config.task}, {which}, cannot be read "
            f"({reason}); see to these files."
        )
    arguments = ", ".join(repr(text) for text in (path, part) if text)
    return MissingDataError(
        f"tasks: {name} needs the data set {path}"
        f"{f' ({part})' if part else ''}, which is not on this machine and cannot be "
        f'fetched ({reason}); where there is a network, type: python -c "import '
        f'datasets; datasets.load_dataset({arguments})", and bring the folder that '
        "HF_HOME names (~/.cache/huggingface) here."
    )


def _reason(err: Exception) -> str:
    return f"{type(err).__name__}: {' '.join(str(err).split())}"[:300]


def _task_in(err: Exception) -> Any:
    """The innermost of the harness's tasks that was at work when this was raised."""
    from lm_eval.api.task import Task

    found = None
    for frame, _ in traceback.walk_tb(err.__traceback__):
        if isinstance(frame.f_locals.get("self"), Task):
            found = frame.f_locals["self"]
    return found
