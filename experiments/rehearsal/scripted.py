"""Tasks whose replies are partly scripted, so that random models differ in skill.

The engine answers every prompt as in a real run. A hash of its tokens then decides
whether the episode goes on with its text or with that of a right dialogue. What an
individual scores is arbitrary, but it depends on every bit of its replies, and is the
same whenever the run is repeated.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import ClassVar

from cycleqd_jax.chat import DEFAULT_CHAT, Chat, ChatOptions, Finish, Message, Reply
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks import base
from cycleqd_jax.tasks.base import Problem, Result, Split, TaskSettings
from cycleqd_jax.tasks.registry import make_task

OWN_OPTIONS = ("first_problems", "new_tokens")
_RIGHT_SHARE = 0.6  # of the replies that are replaced


class ScriptedTask:
    """The first problems of another task; see `cycleqd_jax.tasks.base.Task`.

    Attributes:
      inner: name of the other task, whose settings and verdicts are used.
      free_options: as the other task has them.
    """

    inner: ClassVar[str]

    def __init__(self, settings: TaskSettings):
        """Takes the other task's options and two of its own.

        `first_problems` is the number of problems of each split, `new_tokens` the token
        limit of one reply.
        """
        options = dict(settings.options)
        self._count, self.max_new_tokens = (options.pop(n) for n in OWN_OPTIONS)
        self._task = make_task(
            self.inner, dataclasses.replace(settings, options=options)
        )
        self.name = self._task.name
        self.free_options = getattr(self._task, "free_options", ())
        own = [self._task.fingerprint, self._count, self.max_new_tokens]
        self.fingerprint = hashlib.sha256(json.dumps(own).encode()).hexdigest()

    def problems(self, split: Split) -> Sequence[Problem]:
        """The first problems of the other task's split."""
        return self._task.problems(split)[: self._count]

    def dialogue(self, problem: Problem) -> Sequence[Message]:
        """As the other task's."""
        return self._task.dialogue(problem)

    def reference(self, problem: Problem) -> Sequence[Message] | None:
        """As the other task's."""
        return base.reference(self._task, problem)

    def opening(self, problem: Problem) -> Sequence[Message]:
        """As the other task's."""
        return base.opening(self._task, problem)

    async def run(self, problem: Problem, chat: Chat, sandbox: Sandbox) -> Result:
        """An episode of the other task, with some replies replaced."""
        right = self.reference(problem) or ()
        return await self._task.run(
            problem, _ScriptedChat(chat, problem.id, right), sandbox
        )

    async def aclose(self) -> None:
        """Closes the other task."""
        if hasattr(self._task, "aclose"):
            await self._task.aclose()


class _ScriptedChat:
    """A chat whose replies are those of the model or of a right dialogue."""

    def __init__(self, chat: Chat, problem: str, right: Sequence[Message]):
        self._chat, self._problem, self._right = chat, problem, right

    async def __call__(
        self, messages: Sequence[Message], options: ChatOptions = DEFAULT_CHAT
    ) -> Reply:
        reply = await self._chat(messages, options)
        last = messages[-1]
        beginning = last["content"] if last["role"] == "assistant" else ""
        place = len(messages) - (1 if beginning else 0)  # in the right dialogue
        if place >= len(self._right) or not is_replaced(reply.tokens, self._problem):
            return reply
        text = self._right[place]["content"].removeprefix(beginning)
        return dataclasses.replace(reply, text=text, finish=Finish.STOP)


def is_replaced(tokens: Sequence[int], problem: str) -> bool:
    """True if a right reply takes the place of these tokens."""
    digest = hashlib.sha256(json.dumps([problem, list(tokens)]).encode()).digest()
    return int.from_bytes(digest[:4], "big") < _RIGHT_SHARE * 2**32


class Mbpp(ScriptedTask):
    """MBPP+."""

    inner = "mbpp"


class DBBench(ScriptedTask):
    """AgentBench's databases."""

    inner = "dbbench"


class OSInteraction(ScriptedTask):
    """AgentBench's operating system."""

    inner = "os_interaction"


class PocketCoding(ScriptedTask):
    """Embedded problems of coding."""

    inner = "pocket_coding"


class PocketDb(ScriptedTask):
    """Embedded problems of databases."""

    inner = "pocket_db"


class PocketOs(ScriptedTask):
    """Embedded problems of a shell."""

    inner = "pocket_os"


_CLASSES = (Mbpp, DBBench, OSInteraction, PocketCoding, PocketDb, PocketOs)
# Entry of a config -> the entry of the same task with scripted replies.
SCRIPTED = {one.inner: f"{__name__}:{one.__name__}" for one in _CLASSES}
# Benchmark -> the task that needs no data and takes its place.
STAND_INS = {
    "mbpp": PocketCoding.inner,
    "dbbench": PocketDb.inner,
    "os_interaction": PocketOs.inner,
}
