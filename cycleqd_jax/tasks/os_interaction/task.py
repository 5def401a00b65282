"""AgentBench's OS interaction: operate a Linux system in a few turns.

In each turn the model runs commands in a shell, which lives as long as the episode, or
ends the episode, with or without an answer. The benchmark's own scripts prepare the
system and judge.
"""

import dataclasses
import hashlib
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cycleqd_jax.chat import Chat, Message
from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox.base import Sandbox, Shell, Typed
from cycleqd_jax.tasks.base import Outcome, Problem, Result, Split, TaskSettings
from cycleqd_jax.tasks.data import check_fields, check_ids, seeded_splits
from cycleqd_jax.tasks.os_interaction.actions import extract_action, feedback
from cycleqd_jax.tasks.os_interaction.backend import Machines
from cycleqd_jax.tasks.os_interaction.judge import judge
from cycleqd_jax.tasks.os_interaction.kinds import why_refused
from cycleqd_jax.tasks.os_interaction.options import parse_options
from cycleqd_jax.tasks.os_interaction.problems import OsProblem
from cycleqd_jax.tasks.os_interaction.sources import find_data, read_data, read_ids

_LOG = logging.getLogger(__name__)
_PREPARE_S = 60.0  # of one script that prepares the system, by the shell's clock
_CHECK_S = 60.0
_PROTOCOL = 3


class OSInteraction:
    """OS interaction; see `cycleqd_jax.tasks.base.Task`.

    Args:
      task_settings: `options` are described in `options.Options`; `turns` is unused.

    Raises:
      BadInputError: an option or the data are wrong, or this computer lacks what the
        backend needs.
      MissingDataError: the data are not here and could not be downloaded.
    """

    name = "os_interaction"
    # They decide no verdict: the path of the data, whose content is hashed, where the
    # image comes from, and how many episodes run at once.
    free_options = ("data", "engine", "sessions")

    def __init__(self, task_settings: TaskSettings):
        options = parse_options(task_settings.options)
        self.options = options
        self.max_new_tokens = options.max_new_tokens
        path = find_data(options.data, task_settings.download)
        problems, self._prompt = read_data(path)
        for problem in problems.values():
            why = why_refused(problem)
            if why is not None:
                raise BadInputError(
                    f"{path}: problem {problem.index} cannot be judged so that its "
                    f"episode has no say in it: {why}; change the script, or leave the "
                    "problem out."
                )
        self._data = {str(index): problem for index, problem in problems.items()}
        self._machines = Machines(options)
        self._splits = self._make_splits(path, task_settings)
        self.fingerprint = self._fingerprint()

    def _make_splits(
        self, path: pathlib.Path, task_settings: TaskSettings
    ) -> dict[Split, tuple[str, ...]]:
        if self.options.split == "reference":
            indices = read_ids(path)
            ids = tuple(map(str, indices))
            check_ids(self.name, ids, self._data)
            listed = [self._data[key] for key in ids]
            judged = self._machines.check_runs(listed)
            for problem in listed:
                if problem not in judged:
                    why = self._machines.why_not(problem)
                    place = problem.index
                    _LOG.warning("Problem %d of the list is left out: %s.", place, why)
            return {Split.OPTIMISE: tuple(str(problem.index) for problem in judged)}
        strata = {
            key: problem.group
            for key, problem in self._data.items()
            if self._machines.why_not(problem) is None
        }
        return seeded_splits(self.name, strata, task_settings.sizes, task_settings.seed)

    def _fingerprint(self) -> str:
        decides = {
            "protocol": _PROTOCOL,
            # What was read, whatever file it was read from.
            "problems": [dataclasses.asdict(p) for p in self._data.values()],
            "prompt": dataclasses.asdict(self._prompt),
            "splits": {str(split): ids for split, ids in self._splits.items()},
            "machines": self._machines.fingerprint,
            "options": self.options.model_dump(
                mode="json", exclude={*self.free_options}
            ),
        }
        text = json.dumps(decides, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of one split, as often as `repetitions` says."""
        ids = self._splits.get(split, ())
        return [
            self._problem(key, repetition)
            for repetition in range(self.options.repetitions)
            for key in ids
        ]

    def problem(self, key: int) -> Problem:
        """The problem with this index, whatever the splits.

        Raises:
          BadInputError: there is no such problem.
        """
        name = str(key) if type(key) is int else repr(key)
        check_ids(self.name, [name], self._data)
        return self._problem(name, 0)

    def why_not(self, index: int) -> str | None:
        """Says why a problem cannot run on this computer; None if it can."""
        return self._machines.why_not(self._data[str(index)])

    def transcript(self, row: Mapping[str, Any]) -> tuple[Problem, tuple[str, ...]]:
        """A problem and the replies to it, from `problem_index` and `outputs`.

        Raises:
          BadInputError: the row lacks one of them, or there is no such problem.
        """
        where = f"A transcript of {self.name}"
        check_fields(where, row, {"problem_index": int, "outputs": list})
        for output in row["outputs"]:
            check_fields(where, {"outputs": output}, {"outputs": str})
        return self.problem(row["problem_index"]), tuple(row["outputs"])

    def _problem(self, key: str, repetition: int) -> Problem:
        problem = self._data[key]
        again = f"/{repetition + 1}" if repetition else ""
        return Problem(
            id=f"{self.name}/{key}{again}",
            prompt=self._prompt.text(problem.description),
            answer=None if problem.match is None else f"Act: answer({problem.match})",
            data={"problem": problem},
        )

    def dialogue(self, problem: Problem) -> Sequence[Message]:
        """A right conversation: ends with the answer, or with commands that find it.

        Raises:
          BadInputError: the data have neither an answer nor an example script.
        """
        if (messages := self.reference(problem)) is None:
            raise BadInputError(
                f"{problem.id}: expected a match or an example_script to learn "
                "from, got neither; leave this problem out of the training data."
            )
        return messages

    def reference(self, problem: Problem) -> Sequence[Message] | None:
        """The same as `dialogue`, or None where the data have no solution."""
        given: OsProblem = problem.data["problem"]
        if given.match is not None:
            reply = f"Think: Now I know the answer.\n\nAct: answer({given.match})"
        elif given.example is not None:
            code = given.example.code.strip("\n")
            reply = (
                "Think: I can do this with a few commands.\n\nAct: bash\n\n"
                f"```bash\n{code}\n```"
            )
        else:
            return None
        messages = self._prompt.messages(given.description)
        return [*messages, {"role": "assistant", "content": reply}]

    async def run(self, problem: Problem, chat: Chat, sandbox: Sandbox) -> Result:
        """One episode.

        Raises:
          SandboxError: the system could not be prepared, run or judged, so there is
            no verdict.
        """
        given: OsProblem = problem.data["problem"]
        if why := self._machines.why_not(given):
            raise SandboxError(f"{problem.id}: {why}")
        try:
            async with self._machines.open(given.index, sandbox) as shell:
                await self._prepare(shell, given)
                return await self._episode(shell, given, chat, sandbox)
        except SandboxError as error:
            raise SandboxError(f"{problem.id}: {error}") from error

    async def _prepare(self, shell: Shell, given: OsProblem) -> None:
        for script in given.init:
            run = await shell.script(script.language, script.code, limit_s=_PREPARE_S)
            if run.ended != "done":
                raise SandboxError(f"a script that prepares it ended by {run.ended}")
        terminal = self.options.terminal == "reference"
        typed = await shell.start_shell(terminal=terminal, limit_s=_PREPARE_S)
        if typed.ended == "done" and given.start is not None:
            code = given.start.code
            if given.start.language == "python":
                raise SandboxError("its start script is not bash")
            typed = await shell.type(code, limit_s=_PREPARE_S)
        if typed.ended != "done":
            raise SandboxError(f"its shell was not ready ({typed.ended})")
        await shell.remember()

    async def _episode(
        self, shell: Shell, given: OsProblem, chat: Chat, sandbox: Sandbox
    ) -> Result:
        messages = self._prompt.messages(given.description)
        raw = self.options.terminal == "reference"
        told: list[str] = []
        content, answer, outcome, why = "", "", Outcome.ROUND_LIMIT, ""
        alive, turns = True, 0
        while turns < self.options.rounds:
            reply = (await chat(tuple(messages))).text
            turns += 1
            action = extract_action(reply)
            if action.kind is None:
                outcome, why = Outcome.BAD_ACTION, "The reply has no action."
                break
            if action.kind == "commit":
                content = answer = action.content
                outcome = Outcome.WRONG
                break
            content = action.content
            typed = await shell.type(content, limit_s=self.options.turn_s)
            if typed.ended not in ("done", "exited") or not typed.valid or not alive:
                outcome, why = Outcome.WRONG, _why_ended(typed)
                break
            alive = typed.ended == "done"
            told.append(feedback(typed.output, raw=raw))
            messages += [
                {"role": "assistant", "content": reply},
                {"role": "user", "content": told[-1]},
            ]
        right, reason = await judge(shell, sandbox, given, answer, _CHECK_S)
        return Result(
            outcome=Outcome.SOLVED if right else outcome,
            answer=str(content),
            explanation="The answer is right." if right else why or reason,
            turns=turns,
            prediction=str(answer),
            feedback=tuple(told),
        )


def _why_ended(typed: Typed) -> str:
    if not typed.valid:
        return "A command printed what is not UTF-8."
    return {
        "limit": "A command did not end in time.",
        "cpu": "Its commands used too much processor time.",
        "memory": "Its commands used too much memory.",
    }.get(typed.ended, "The shell had ended.")
