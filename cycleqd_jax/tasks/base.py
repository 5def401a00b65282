"""The interface of tasks: problems in splits, and episodes that end in a verdict.

A task knows text and processes, and nothing of JAX. An episode is a coroutine that
awaits replies of `chat` and results of `sandbox`, so thousands can run at once.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Protocol

import pydantic
from pydantic import Field

from cycleqd_jax.chat import DEFAULT_CHAT, Chat, ChatOptions, Message
from cycleqd_jax.errors import MEND_CODE, BadInputError, RunError, own_code, printable
from cycleqd_jax.files import Count, Section, Seed, Whole
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.checks import check_dialogue, check_result

_ATTEMPTS = 3  # at an episode whose environment fails


class Split(enum.StrEnum):
    """Disjoint sets of problems."""

    TRAIN = "train"  # experts learn from these
    OPTIMISE = "optimise"  # the search scores children on these
    VALIDATE = "validate"  # champions and settings are chosen on these
    TEST = "test"  # only reported


class Outcome(enum.StrEnum):
    """The ending of one episode."""

    SOLVED = "solved"  # 1.0
    WRONG = "wrong"  # 0.0, it answered
    ROUND_LIMIT = "round_limit"  # 0.0, it ran out of turns
    BAD_ACTION = "bad_action"  # 0.0, its reply did not parse
    SCORED = "scored"  # a share, neither right nor wrong
    ENV_ERROR = "env_error"  # no score: the environment failed; see `run_episode`


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
      id: unique in the task, like "pocket_db/test/17".
      prompt: what the user message says.
      answer: the text of a right reply, or None where none is known.
      data: what the task needs to judge an answer; the model never sees it.
    """

    id: str
    prompt: str
    answer: str | None
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Result:
    """The verdict on one episode.

    Attributes:
      outcome: how the episode ended.
      answer: what was taken from the replies and executed.
      explanation: one line for readers of the results.
      turns: number of replies.
      prediction: what was compared with the expected, as text.
      feedback: the environment's messages, in order.
      metrics: further verdicts by name, like `plus` of coding.
      share: the score where the outcome is SCORED, 0.0 to 1.0.
    """

    outcome: Outcome
    answer: str
    explanation: str
    turns: int
    prediction: str = ""
    feedback: tuple[str, ...] = ()
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    share: float = 0.0

    def __post_init__(self):
        """Checks the fields. The explanation becomes a line that is safe to print."""
        check_result(self, Outcome)
        line = printable(" ".join(self.explanation.split()))
        object.__setattr__(self, "explanation", line)

    @property
    def score(self) -> float:
        """1.0 if solved, the share if scored, else 0.0.

        Raises:
          ValueError: the outcome is ENV_ERROR, which says nothing about the model.
        """
        if self.outcome is Outcome.ENV_ERROR:
            raise ValueError(f"An environment error has no score: {self.explanation}")
        if self.outcome is Outcome.SCORED:
            return self.share
        return 1.0 if self.outcome is Outcome.SOLVED else 0.0


class ProblemsSettings(Section):
    """The number of problems that the tasks generate, and their seed.

    Attributes:
      seed: of the problems; not the seed of the search.
      train: problems per task that experts learn from.
      optimise: problems per task that the search scores children on.
      validate_: problems per task that champions are chosen on; `validate` in YAML.
      test: problems per task that are only reported; 0 reports none.
      turns: replies per episode, 1 or 2.
    """

    model_config = pydantic.ConfigDict(validate_by_name=False, serialize_by_alias=True)

    seed: Seed = 0
    train: Count = 600
    optimise: Whole = 24
    # `validate` would hide a method of pydantic's.
    validate_: Count = Field(24, alias="validate")
    test: Count = 64
    turns: Annotated[int, Field(ge=1, le=2)] = 1

    @property
    def sizes(self) -> dict[Split, int]:
        """Problems per split and task."""
        return {
            Split.TRAIN: self.train,
            Split.OPTIMISE: self.optimise,
            Split.VALIDATE: self.validate_,
            Split.TEST: self.test,
        }

    def task_settings(
        self, options: Mapping[str, Any], *, download: bool = True
    ) -> "TaskSettings":
        """The arguments of a task with these problems."""
        return TaskSettings(self.seed, self.sizes, self.turns, options, download)


_DEFAULT = ProblemsSettings()


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """The arguments of a task.

    Attributes:
      seed: of the problems; not the seed of the search.
      sizes: problems per split; a split that is not named has none.
      turns: replies of an episode: 1, or 2 if the first reply may be an inspection.
      options: the task's own settings, `task_settings.NAME` of a config.
      download: whether data that are not on this machine may be downloaded.
    """

    seed: int = _DEFAULT.seed
    sizes: Mapping[Split, int] = dataclasses.field(default_factory=dict)
    turns: int = _DEFAULT.turns
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    download: bool = True


class Question(NamedTuple):
    """One thing that a task asks a chat.

    Attributes:
      messages: see `Chat`.
      continuation: what is scored; None asks for a reply.
      options: of the reply or the score.
    """

    messages: tuple[Message, ...]
    continuation: str | None
    options: ChatOptions


class Task(Protocol):
    """One skill. A task is made as `TaskClass(settings)` with `TaskSettings`.

    Attributes:
      name: also the name of its archive.
      max_new_tokens: token limit of one reply.
      fingerprint: hex hash of everything that decides its problems and verdicts, its
        options included. The source of its module is hashed in addition.

    A class may have `free_options`: names of options that may change when a run is
    resumed, because they only say where data are or how fast the task works. Where a
    task has its settings as `options`, a `files.Section`, a left out option is the same
    as its default.

    A task that holds resources, such as a server, may have a coroutine method
    `aclose()`. It is called when an evaluator closes; later episodes open them again. A
    task whose results have `metrics` may have a static method `summarise(means)`: it
    takes each metric's mean over a model's episodes, by name, and returns the numbers
    that a report shows.

    A task of which not every problem has a known answer has a method
    `reference(problem)`: the same as `dialogue`, or None. It may have
    `opening(problem)`, the messages before the last reply of a right episode, from
    which lengths are planned.

    A task that asks several things about a problem, or not as chats, has a method
    `questions(problem)` that gives all as `Question`s, from which lengths are planned.
    Where `shares_prompts` is true, its prompts begin alike, like with the same examples
    in front: neighbouring problems then share a conversation, and what they begin with
    is computed once.
    """

    name: str
    max_new_tokens: int
    fingerprint: str

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of one split, in a fixed order."""
        ...

    def dialogue(self, problem: Problem) -> Sequence[Message]:
        """A right conversation, which experts learn; its last message is the answer."""
        ...

    async def run(self, problem: Problem, chat: Chat, sandbox: Sandbox) -> Result:
        """One episode.

        Raises:
          SandboxError: the environment failed, so there is no verdict.
        """
        ...


def reference(task: Task, problem: Problem) -> Sequence[Message] | None:
    """A right conversation that ends with the answer; None where none is known."""
    method = getattr(task, "reference", task.dialogue)
    what = f"Task {task.name}, problem {problem.id}: {method.__name__}"
    with own_code(what, type(task), "mend it", BadInputError):
        found = method(problem)
    if found is not None:
        check_dialogue(what, found)
    return found


def opening(task: Task, problem: Problem) -> Sequence[Message]:
    """The longest prompt: all that is said before the last reply of a right episode.

    Where no right conversation is known, it is what the task's own `opening` says, or
    else the user message.
    """
    if (known := reference(task, problem)) is not None:
        return known[:-1]
    if hasattr(task, "opening"):
        return task.opening(problem)
    return [{"role": "user", "content": problem.prompt}]


async def run_episode(
    task: Task, problem: Problem, make_chat: Callable[[], Chat], sandbox: Sandbox
) -> Result:
    """Runs an episode until it ends in a verdict.

    An episode with the outcome ENV_ERROR is run again, at most twice.

    Args:
      task: whose episode.
      problem: one of the task's.
      make_chat: called for each attempt; gives a chat without earlier messages.
      sandbox: runs programs.

    Raises:
      RunError: the environment failed three times; the run stops and can be resumed.
        Or the task raised something else, or gave no `Result`.
      SandboxError: raised by the task; the sandbox has retried already.
    """
    what = f"Task {task.name}, problem {problem.id}: run"
    for _ in range(_ATTEMPTS):
        with own_code(what, type(task), MEND_CODE, RunError):
            result = await task.run(problem, make_chat(), sandbox)
        if not isinstance(result, Result):
            raise RunError(
                f"{what} must return a cycleqd_jax.tasks.base.Result, but returned "
                f"{result!r:.80}; {MEND_CODE}."
            )
        if result.outcome is not Outcome.ENV_ERROR:
            return result
    raise RunError(
        f"Task {task.name}, problem {problem.id}: its environment failed {_ATTEMPTS} "
        f"times, the last time with: {result.explanation}; mend it, then go on with "
        "--resume."
    )


def questions(task: Task, problem: Problem) -> Sequence[Question]:
    """All that an episode asks, or the longest of it: the task's own, or `opening`."""
    if hasattr(task, "questions"):
        return task.questions(problem)
    return [Question(tuple(opening(task, problem)), None, DEFAULT_CHAT)]
