"""The base class of the pocket tasks: messages, replies, turns, the fingerprint.

One user message states the problem. A reply holds its action in a fenced block. With
two turns the first reply may be an inspection instead of the answer: a block with a tag
that the prompt names. It runs in the sandbox and its output is the next user message.
"""

import abc
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from cycleqd_jax.chat import Chat, Message
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import Section, Whole, parse_section
from cycleqd_jax.sandbox.base import Execution, Limits, Program, Sandbox
from cycleqd_jax.tasks import programs
from cycleqd_jax.tasks.base import Outcome, Problem, Result, Split, TaskSettings
from cycleqd_jax.tasks.pocket import generator

_PROTOCOL = 2  # raised when prompts or verdicts change
# Many chat templates add a system text of their own where none is given, and every
# token of a prompt costs time in every episode.
SYSTEM: Message = {"role": "system", "content": ""}
LIMITS = Limits(cpu_s=1.0, wall_s=10.0)
# `tokens_by_turns` of the harder tier, whose longest right answer has 57.
HARD_TOKENS = {1: 64, 2: 128}
TRAINED, HELD_OUT = "trained templates", "held-out templates"  # metrics of a result
_MAX_ANSWER = 4000  # characters
_MAX_FEEDBACK = 200  # characters of an inspection's output
_FENCE = re.compile(r"```([^\n`]*)\n(.*?)(?:```|\Z)", re.DOTALL)
_INLINE_FENCE = re.compile(r"```([^\n`]*)(?:```|\Z)")


@dataclasses.dataclass(frozen=True)
class Action:
    """The action that a reply asks for.

    Attributes:
      text: what to execute; empty if the reply holds nothing usable.
      inspects: True for an inspection, False for the answer.
    """

    text: str
    inspects: bool = False


def parse_reply(reply: str, inspection_tag: str) -> Action:
    """Takes the action out of a reply.

    It is the content of the first fenced block, which may be cut off. Without a block
    it is the text between two fences on one line, and without a fence the whole reply.
    Empty text, text of more than 4000 characters and text with a null character are
    not usable.

    Args:
      reply: the model's text.
      inspection_tag: the tag of a block that is an inspection.
    """
    tag, text = "", reply
    if block := _FENCE.search(reply):
        tag, text = block.group(1).strip().lower(), block.group(2)
    elif inline := _INLINE_FENCE.search(reply):
        text = inline.group(1) if inline.group().endswith("```") else ""
    text = _encodable(text.strip("\n").rstrip())
    if "\0" in text or len(text) > _MAX_ANSWER:
        text = ""
    return Action(text, tag == inspection_tag)


def fenced(tag: str, text: str) -> str:
    """A fenced block."""
    return f"```{tag}\n{text}\n```"


class PocketOptions(Section):
    """`task_settings` of a pocket task.

    Attributes:
      gold_answers: whether problems come with a right answer. Without one, only
        verdicts tell how good a model is: there is no log-probability, no gradient and
        nothing to train an expert on.
      train: `train` problems of this task, in place of `problems.train`.
    """

    gold_answers: bool = True
    train: Whole | None = None


class PocketTask(abc.ABC):
    """A task with generated problems; see `cycleqd_jax.tasks.base.Task`.

    Attributes:
      answer_tag: tag of the answer's block in a right reply; replies may use others.
      inspection_tag: tag of an inspection's block.
      inspection_hint: what a prompt adds where there are two turns.
      templates: the families of problems.
      tokens_by_turns: turns -> token limit of one reply.
      never_gold: whether no problem ever comes with a right answer.
    """

    name: ClassVar[str]
    answer_tag: ClassVar[str]
    inspection_tag: ClassVar[str]
    inspection_hint: ClassVar[str]
    templates: ClassVar[Sequence[generator.Template]]
    # The longest right answer has 32; an inspection may repeat the answer.
    tokens_by_turns: ClassVar[Mapping[int, int]] = {1: 36, 2: 72}
    never_gold: ClassVar[bool] = False

    def __init__(self, settings: TaskSettings):
        """Checks the settings; problems are made when they are asked for.

        Raises:
          BadInputError: an option is not one of `PocketOptions`, a size is negative, or
            `turns` is neither 1 nor 2.
        """
        kind = Section if self.never_gold else PocketOptions
        where = f"task_settings.{self.name}"
        self.options = parse_section(where, settings.options, kind)
        own = getattr(self.options, "train", None)
        self._sizes = dict(settings.sizes) | ({Split.TRAIN: own} if own else {})
        self._is_gold = getattr(self.options, "gold_answers", False)
        self._answers: dict[str, str] = {}  # by id, of problems that come without
        if settings.turns not in (1, 2):
            raise BadInputError(
                f"turns of {self.name} must be 1 or 2 but is {settings.turns}."
            )
        for split, size in settings.sizes.items():
            if size < 0:
                raise BadInputError(
                    f"The size of split {split} of {self.name} must be at least 0 but "
                    f"is {size}."
                )
        self.max_new_tokens = self.tokens_by_turns[settings.turns]
        self._settings = settings
        self._made: dict[Split, tuple[Problem, ...]] = {}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the protocol and of all problems of the sizes asked for."""
        problems = [
            [p.id, p.prompt, p.answer, repr(sorted(p.data.items()))]
            for split in Split
            for p in self.problems(split)
        ]
        content = [_PROTOCOL, self._settings.turns, problems]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of one split, in a fixed order; made once.

        Raises:
          BadInputError: there are fewer than the size asks for.
        """
        if split not in self._made:
            seed, size = self._settings.seed, self._sizes.get(split, 0)
            made = generator.generate(self.name, self.templates, seed, split, size)
            if self._settings.turns == 2:
                made = tuple(
                    dataclasses.replace(p, prompt=p.prompt + self.inspection_hint)
                    for p in made
                )
            if not self._is_gold:
                self._answers |= {p.id: p.answer for p in made}
                made = tuple(dataclasses.replace(p, answer=None) for p in made)
            self._made[split] = made
        return self._made[split]

    @classmethod
    def is_held_out(cls, problem: Problem) -> bool:
        """True if the problem's template is one that `train` leaves out."""
        return problem.data["template"] in _held_out(cls)

    def dialogue(self, problem: Problem) -> Sequence[Message]:
        """A right conversation: with two turns an inspection, then the answer.

        Raises:
          BadInputError: problems come without gold answers.
        """
        if not self._is_gold:
            raise BadInputError(
                f"{problem.id}: {self.name} gives no gold answers to learn from here; "
                "train on another task"
                + ("." if self.never_gold else ", or set its gold_answers to true.")
            )
        return self._right(problem)

    def reference(self, problem: Problem) -> Sequence[Message] | None:
        """The same as `dialogue`, or None where problems come without gold answers."""
        return self._right(problem) if self._is_gold else None

    def opening(self, problem: Problem) -> Sequence[Message]:
        """The messages before the last reply of a right conversation."""
        return self._right(problem)[:-1]

    def _right(self, problem: Problem) -> list[Message]:
        answer = self._answers.get(problem.id, problem.answer)
        problem = dataclasses.replace(problem, answer=answer)
        messages = [SYSTEM, {"role": "user", "content": problem.prompt}]
        if self._settings.turns == 2:
            action, output = self.right_inspection(problem)
            block = fenced(self.inspection_tag, action)
            messages.append({"role": "assistant", "content": block})
            messages.append({"role": "user", "content": _feedback(output)})
        block = fenced(self.answer_tag, problem.answer or "")
        messages.append({"role": "assistant", "content": block})
        return messages

    async def run(self, problem: Problem, chat: Chat, sandbox: Sandbox) -> Result:
        """One episode.

        Args:
          problem: one of `problems`.
          chat: gives at most `turns` replies.
          sandbox: runs inspections and the answer.

        Returns:
          The verdict. Its metric is the score once more, under the kind of its
          template: `TRAINED` or `HELD_OUT`.

        Raises:
          SandboxError: the sandbox failed, so there is no verdict.
        """
        result = await self._play(problem, chat, sandbox)
        kind = HELD_OUT if self.is_held_out(problem) else TRAINED
        return dataclasses.replace(result, metrics={kind: result.score})

    async def _play(self, problem: Problem, chat: Chat, sandbox: Sandbox) -> Result:
        messages = [SYSTEM, {"role": "user", "content": problem.prompt}]
        for turn in range(1, self._settings.turns + 1):
            reply = await chat(tuple(messages))
            action = parse_reply(reply.text, self.inspection_tag)
            if not action.text:
                explanation = "The reply holds nothing to execute."
                return Result(Outcome.BAD_ACTION, "", explanation, turn)
            if not action.inspects:
                reason = await self.judge(problem, action.text, sandbox)
                reason = _encodable(" ".join(reason.split()))
                outcome = Outcome.WRONG if reason else Outcome.SOLVED
                return Result(outcome, action.text, reason or "Right.", turn)
            if turn < self._settings.turns:
                output = await self.inspect(problem, action.text, sandbox)
                messages.append({"role": "assistant", "content": reply.text})
                messages.append({"role": "user", "content": _feedback(output)})
        explanation = "The last turn was an inspection, not an answer."
        return Result(Outcome.ROUND_LIMIT, action.text, explanation, turn)

    @abc.abstractmethod
    async def judge(self, problem: Problem, answer: str, sandbox: Sandbox) -> str:
        """Runs an answer; returns "" if it is right, else why not, in one line."""

    @abc.abstractmethod
    async def inspect(self, problem: Problem, action: str, sandbox: Sandbox) -> str:
        """Runs an inspection and returns what it printed."""

    @abc.abstractmethod
    def right_inspection(self, problem: Problem) -> tuple[str, str]:
        """A useful inspection and what `inspect` returns for it."""


@functools.cache
def _held_out(kind: type[PocketTask]) -> frozenset[str]:
    return frozenset(t.id for t in kind.templates if t.held_out)


def python_program(script: str) -> Program:
    """A Python script as a program, which may import `values`."""
    files = (("main.py", script.encode()), programs.VALUES)
    return Program(programs.PYTHON, files=files, limits=LIMITS)


def why_stopped(execution: Execution) -> str:
    """Says in a sentence why a program did not end by itself; empty if it did."""
    reason = programs.why_stopped(execution)
    return reason and f"{reason[0].upper()}{reason[1:]}."


def _feedback(output: str) -> str:
    output = _encodable(output.strip("\n"))
    if len(output) > _MAX_FEEDBACK:
        output = output[:_MAX_FEEDBACK] + " ..."
    return output or "(no output)"


def _encodable(text: str) -> str:
    """Text with "?" for lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")
