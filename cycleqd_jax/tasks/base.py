"""What a task is: problems by split, and an episode that ends in a verdict.

A task knows text and processes and nothing of JAX. An episode is a coroutine that asks
`chat` for replies and `sandbox` for what programs do, so that thousands wait at once.
"""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

import pydantic
from pydantic import Field

from cycleqd_jax.chat import Chat, Message
from cycleqd_jax.files import Count, Section, Seed, Whole
from cycleqd_jax.sandbox.base import Sandbox


class Split(enum.StrEnum):
    """Disjoint sets of problems."""

    TRAIN = "train"  # experts learn from these
    OPTIMISE = "optimise"  # the search scores children on these
    VALIDATE = "validate"  # champions and settings are chosen on these
    TEST = "test"  # only ever reported


class Outcome(enum.StrEnum):
    """What became of one episode."""

    SOLVED = "solved"  # 1.0
    WRONG = "wrong"  # 0.0, it answered
    ROUND_LIMIT = "round_limit"  # 0.0, it ran out of turns
    BAD_ACTION = "bad_action"  # 0.0, the reply did not parse
    ENV_ERROR = "env_error"  # no score, our fault: the run stops, resumable


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
      id: unique over all splits of the task, like "pocket_db/test/17".
      prompt: what the first user message says.
      answer: the text of a right reply, or None where none is known.
      data: what the task needs to judge an answer; never shown to the model.
    """

    id: str
    prompt: str
    answer: str | None
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Result:
    """The verdict on one episode.

    Attributes:
      outcome: what happened.
      answer: what was taken from the replies and executed.
      explanation: one line for a reader of the results.
      turns: how many replies were asked for.
      prediction: what was compared, as text; tasks whose answer is executed say here
        what came of it.
      feedback: what the environment said after each action, in order.
      metrics: further verdicts by name, like `plus` of coding.
    """

    outcome: Outcome
    answer: str
    explanation: str
    turns: int
    prediction: str = ""
    feedback: tuple[str, ...] = ()
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def score(self) -> float:
        """1.0 if solved, else 0.0.

        Raises:
          ValueError: for ENV_ERROR, which is not a verdict on the model.
        """
        if self.outcome is Outcome.ENV_ERROR:
            raise ValueError(f"An environment error has no score: {self.explanation}")
        return 1.0 if self.outcome is Outcome.SOLVED else 0.0


class ProblemsSettings(Section):
    """Which problems the tasks generate.

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
        """What a task with these problems is made with; see `TaskSettings`."""
        return TaskSettings(self.seed, self.sizes, self.turns, options, download)


_DEFAULT = ProblemsSettings()


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """What every task is made with.

    Attributes:
      seed: of the problems; not the seed of a search.
      sizes: problems per split; a split that is not named has none.
      turns: replies per episode; with 2 the first may ask, run or inspect.
      options: the task's own settings, `task_settings.NAME` of a config.
      download: whether data that are not on this machine may be fetched.
    """

    seed: int = _DEFAULT.seed
    sizes: Mapping[Split, int] = dataclasses.field(default_factory=dict)
    turns: int = _DEFAULT.turns
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    download: bool = True


class Task(Protocol):
    """A skill: made as `TaskClass(settings)` with `TaskSettings`.

    Attributes:
      name: also the name of its archive.
      max_new_tokens: token limit of one reply.
      fingerprint: hex hash of everything that decides its problems and verdicts, its
        options included. The source of its module is hashed in addition.

    A class outside this package may have `free_options`, names of options that a
    resumed run may change: they only say where data are, or how fast the task works.
    A task that holds something open (a server, connections) may have a coroutine
    method `aclose()`, called when an evaluator ends; a later episode opens it again.
    One whose results have `metrics` may have a static method `summarise(means)`, from
    the means over a model's episodes by name to the numbers that a report shows.
    """

    name: str
    max_new_tokens: int
    fingerprint: str

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of one split, in a fixed order."""
        ...

    def dialogue(self, problem: Problem) -> Sequence[Message]:
        """A right conversation, for training: it ends with an assistant message."""
        ...

    async def run(self, problem: Problem, chat: Chat, sandbox: Sandbox) -> Result:
        """One episode. Raises `SandboxError` where the environment failed."""
        ...


def reference(task: Task, problem: Problem) -> Sequence[Message] | None:
    """A right conversation that ends with the answer; None where none is known."""
    return getattr(task, "reference", task.dialogue)(problem)
