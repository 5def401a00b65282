"""What the pocket tasks share: the messages, taking an answer out, the turns.

One user message states the problem. In the form with two turns it also names an
inspection: a fenced block whose tag says that it is none of the answer, which is run
in the sandbox and whose output comes back. An answer may come in any turn and ends
the episode; an inspection in the last turn ends it without one.
"""

import abc
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from typing import ClassVar

from cycleqd_jax.chat import Chat, Message
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.sandbox.base import (
    Ending,
    Execution,
    Limits,
    Program,
    Sandbox,
)
from cycleqd_jax.tasks.base import Outcome, Problem, Result, Split, TaskSettings
from cycleqd_jax.tasks.pocket import generator

# Python in a sandbox: no user or site packages, no bytecode, and sets in one order, so
# that a verdict is a function of the answer.
PYTHON = ("env", "PYTHONHASHSEED=0", "python3", "-s", "-S", "-B", "main.py")
# Empty, because many chat templates put in a text of their own where none is given,
# and every token of a prompt costs time in every episode.
SYSTEM: Message = {"role": "system", "content": ""}
# A command that waits for ever costs this twice, the second time alone.
LIMITS = Limits(cpu_s=1.0, wall_s=10.0)
# By turns: the longest right answer has 32, and an inspection may hold the answer too.
_MAX_NEW_TOKENS = {1: 36, 2: 72}
_MAX_ANSWER = 4000  # characters
_MAX_FEEDBACK = 200  # characters of an inspection's output that come back
_FENCE = re.compile(r"```([^\n`]*)\n(.*?)(?:```|\Z)", re.DOTALL)
_INLINE_FENCE = re.compile(r"```([^\n`]*)(?:```|\Z)")


@dataclasses.dataclass(frozen=True)
class Action:
    """What a reply asks for.

    Attributes:
      text: what is to be executed; empty if the reply held nothing usable.
      inspects: whether it asks for an inspection and is not the answer.
    """

    text: str
    inspects: bool = False


def parse_reply(reply: str, inspection_tag: str) -> Action:
    """Takes the action out of a reply.

    It is the content of the first fenced block, closed or cut off; `inspection_tag`
    after the fence makes it an inspection. Without a block it is what a fence and its
    end enclose within a line, and without a fence the whole reply. Nothing is usable
    if that is empty, longer than 4000 characters or holds a null character.
    """
    tag, text = "", reply
    if block := _FENCE.search(reply):
        tag, text = block.group(1).strip().lower(), block.group(2)
    elif inline := _INLINE_FENCE.search(reply):
        text = inline.group(1) if inline.group().endswith("```") else ""
    text = text.strip("\n").rstrip()
    text = _encodable(text)
    if "\0" in text or len(text) > _MAX_ANSWER:
        text = ""
    return Action(text, tag == inspection_tag)


def fenced(tag: str, text: str) -> str:
    """A fenced block."""
    return f"```{tag}\n{text}\n```"


class PocketTask(abc.ABC):
    """A skill with generated problems; see `cycleqd_jax.tasks.base.Task`.

    Attributes:
      answer_tag: of the fenced block in a right reply; other tags are taken too.
      inspection_tag: of the fenced block that is none of the answer.
      inspection_hint: what the prompt adds in the form with two turns.
      templates: the families of problems.
      protocol: everything else that decides verdicts, for the fingerprint.
    """

    name: ClassVar[str]
    answer_tag: ClassVar[str]
    inspection_tag: ClassVar[str]
    inspection_hint: ClassVar[str]
    templates: ClassVar[Sequence[generator.Template]]
    protocol: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: TaskSettings):
        """Makes no problem yet.

        Args:
          settings: seed, sizes and turns.

        Raises:
          BadInputError: if a size is negative or `turns` is neither 1 nor 2.
        """
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
        self.max_new_tokens = _MAX_NEW_TOKENS[settings.turns]
        self._settings = settings
        self._made: dict[Split, tuple[Problem, ...]] = {}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of all problems of the sizes asked for and of the protocol."""
        content = [
            [generator.VERSION, self._settings.turns, self.max_new_tokens],
            [SYSTEM["content"], self.answer_tag, self.inspection_tag, *self.protocol],
            [repr(LIMITS), PYTHON, _MAX_ANSWER, _MAX_FEEDBACK],
            [
                [p.id, p.prompt, p.answer, repr(sorted(p.data.items()))]
                for split in Split
                for p in self.problems(split)
            ],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of one split, in a fixed order; made once.

        Raises:
          BadInputError: if more were asked for than there are.
        """
        if split not in self._made:
            seed, size = self._settings.seed, self._settings.sizes.get(split, 0)
            made = generator.generate(self.name, self.templates, seed, split, size)
            if self._settings.turns == 2:
                made = tuple(
                    dataclasses.replace(p, prompt=p.prompt + self.inspection_hint)
                    for p in made
                )
            self._made[split] = made
        return self._made[split]

    def dialogue(self, problem: Problem) -> Sequence[Message]:
        """A right conversation of this task's form; it ends with the answer."""
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
          chat: asked for at most `turns` replies.
          sandbox: executes inspections and the answer.

        Raises:
          SandboxError: if the sandbox failed; there is no verdict then.
        """
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
        """Executes an answer; empty if it is right, else one line that says why not."""

    @abc.abstractmethod
    async def inspect(self, problem: Problem, action: str, sandbox: Sandbox) -> str:
        """Executes an inspection and returns what it printed."""

    @abc.abstractmethod
    def right_inspection(self, problem: Problem) -> tuple[str, str]:
        """A useful inspection and what `inspect` says to it."""


def python_program(script: str) -> Program:
    """A program that runs a Python script by itself."""
    return Program(PYTHON, files=(("main.py", script.encode()),), limits=LIMITS)


def why_stopped(execution: Execution) -> str:
    """One line on a program that did not end by itself; empty if it did."""
    reasons = {
        Ending.EXITED: "",
        Ending.SIGNALLED: "It was killed by a signal.",
        Ending.CPU_LIMIT: "It used up its CPU time.",
        Ending.WALL_LIMIT: "It used up its time.",
        Ending.OUTPUT_LIMIT: "It wrote too much output.",
        Ending.MEMORY_LIMIT: "It used too much memory.",
        Ending.ENTRIES_LIMIT: "It made too many files.",
    }
    return reasons[execution.ending]


def _feedback(output: str) -> str:
    output = _encodable(output.strip("\n"))
    if len(output) > _MAX_FEEDBACK:
        output = output[:_MAX_FEEDBACK] + " ..."
    return output or "(no output)"


def _encodable(text: str) -> str:
    """Text with question marks for lone surrogates, which have no bytes in UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
