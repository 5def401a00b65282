"""A task made from a file or a data set; see `cycleqd_jax.tasks.base.Task`.

One user message states a problem, and one reply answers it. Everything in it is
checked before work starts.
"""

import functools
import hashlib
import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from cycleqd_jax.chat import Chat, Message, check_text
from cycleqd_jax.errors import BadInputError, MissingDataError, show
from cycleqd_jax.files import parse_section
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.base import Outcome, Problem, Result, Split, TaskSettings
from cycleqd_jax.tasks.data import seeded_splits
from cycleqd_jax.tasks.own import programs, scorers
from cycleqd_jax.tasks.own.hub import read_hub
from cycleqd_jax.tasks.own.options import FORMATS, OwnOptions
from cycleqd_jax.tasks.own.rows import (
    Row,
    Template,
    as_text,
    field,
    read_rows,
    value_of,
)

_PROTOCOL = 1  # raised when prompts or verdicts change
_LONGEST_KEPT = 4000  # characters of an answer in the results
_LONGEST_ID = 200  # characters
_SCORERS = {
    "exact": scorers.Exact,
    "contains": scorers.Contains,
    "number": scorers.Number,
    "choice": scorers.Choice,
    "regex": programs.Regex,
    "python_tests": programs.PythonTests,
    "bash_check": programs.BashCheck,
}


class OwnTask:
    """Problems of a file or a data set.

    Attributes:
      name: of the task, as the config has it.
      max_new_tokens: of one reply.
      options: the task's settings.
      examples_from: class of another task by whose rules programs are judged.
    """

    free_options: ClassVar = FORMATS  # the content is hashed

    def __init__(self, name: str, settings: TaskSettings, taken: Collection[str] = ()):
        """Reads and checks the file; runs nothing.

        Args:
          name: of the task.
          settings: their options are `OwnOptions`; `turns` is unused.
          taken: names of built-in tasks.

        Raises:
          BadInputError: a setting is wrong, or the file; names its line.
          MissingDataError: a data set is not here and cannot be downloaded.
        """
        if name in taken:
            raise BadInputError(
                f"tasks: {name} is a built-in task, so no file can have this name; "
                "give it another with name: NAME."
            )
        self.name = name
        self.options = parse_section(
            f"task_settings.{name}", settings.options, OwnOptions
        )
        self.max_new_tokens = self.options.max_new_tokens
        self._scorer = _SCORERS[self.options.scorer](self.options)
        judged_with = getattr(self._scorer, "judged_with", None)
        self.examples_from = judged_with or type(self)
        self._replies: dict[str, str | None] = {}
        self._splits = self._make_splits(settings)

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of one split, in a fixed order."""
        return self._splits[split]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the settings and of all problems of the sizes asked for."""
        options = self.options.model_dump(mode="json", exclude={*self.free_options})
        problems = [
            [p.id, p.prompt, self._replies[p.id], repr(sorted(p.data.items()))]
            for split in Split
            for p in self.problems(split)
        ]
        content = [_PROTOCOL, self.name, options, problems]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def opening(self, problem: Problem) -> list[Message]:
        """The messages before the reply."""
        user: Message = {"role": "user", "content": problem.prompt}
        if self.options.system is None:
            return [user]
        return [{"role": "system", "content": self.options.system}, user]

    def reference(self, problem: Problem) -> Sequence[Message] | None:
        """A right conversation, or None where no right reply is known."""
        reply = self._replies[problem.id]
        if reply is None:
            return None
        return [*self.opening(problem), {"role": "assistant", "content": reply}]

    def dialogue(self, problem: Problem) -> Sequence[Message]:
        """A right conversation.

        Raises:
          BadInputError: no right reply is known.
        """
        if (known := self.reference(problem)) is None:
            raise BadInputError(
                f"{problem.id}: no right reply is known, since the answer of the "
                f"scorer {self.options.scorer} is none; name the field with one as "
                f"task_settings.{self.name}.reply, or train on another task."
            )
        return known

    async def run(self, problem: Problem, chat: Chat, sandbox: Sandbox) -> Result:
        """One episode.

        Raises:
          SandboxError: the sandbox failed, so there is no verdict.
        """
        reply = _encodable((await chat(tuple(self.opening(problem)))).text)
        if len(reply) > scorers.LONGEST:
            found, wrong = "", f"The reply has more than {scorers.LONGEST} characters."
        elif isinstance(self._scorer, programs.ProgramScorer):
            found, wrong = await self._scorer.judge(problem.data, reply, sandbox)
        else:
            found, wrong = self._scorer.judge(problem.data, reply)
        outcome = Outcome.SOLVED
        if wrong:
            outcome = Outcome.WRONG if found else Outcome.BAD_ACTION
        kept = found[:_LONGEST_KEPT].replace("\0", "\N{REPLACEMENT CHARACTER}")
        return Result(outcome, kept, wrong or "Right.", turns=1)

    def _make_splits(self, settings: TaskSettings) -> dict[Split, tuple[Problem, ...]]:
        options = self.options
        rows = self._rows(settings.download)
        unit = "line" if options.hub is None else "row"
        prompt = Template(f"task_settings.{self.name}.prompt", options.prompt)
        problems: dict[str, Problem] = {}
        lines: dict[Any, int] = {}
        by_split: dict[Split, list[Problem]] = {split: [] for split in Split}
        for row in rows:
            problem = self._problem(row, prompt)
            asked = (problem.prompt, repr(problem.data.get("files")))
            if options.hub is not None and asked in lines:
                continue  # nobody can edit a published data set
            for what, key in (("id", problem.id), ("prompt", asked)):
                if key in lines:
                    raise BadInputError(
                        f"{row.where}: has the same {what} as {unit} {lines[key]}; "
                        "give every problem another, and leave out what is there twice."
                    )
                lines[key] = row.line
            problems[problem.id] = problem
            if options.split is not None:
                by_split[_split_of(row, options.split)].append(problem)
        if options.split is not None:
            return {split: tuple(found) for split, found in by_split.items()}
        sizes = {**settings.sizes, **options.own_sizes}
        known = f"{self.name} ({options.source})"
        strata = dict.fromkeys(problems, "")
        ids = seeded_splits(known, strata, sizes, settings.seed)
        return {s: tuple(problems[key] for key in ids[s]) for s in Split}

    def _rows(self, may_download: bool) -> list[Row]:
        options = self.options
        if options.hub is None:
            path = pathlib.Path(options.source)
            return read_rows(path, is_csv=options.csv is not None)
        try:
            data, folder = options.hub.fetched(may_download)
            self.options = options.model_copy(update={"hub": data})
            return read_hub(data, folder)
        except MissingDataError as err:
            raise MissingDataError(f"task_settings.{self.name}.{err}") from err
        except BadInputError as err:
            raise BadInputError(f"task_settings.{self.name}.{err}") from err

    def _problem(self, row: Row, template: Template) -> Problem:
        options, scorer = self.options, self._scorer
        name: Any = row.line
        if options.id is not None:
            name = as_text(row, "the id", field(row, "id", options.id))
            if not name or len(name) > _LONGEST_ID:
                raise BadInputError(
                    f"{row.where}: the id is {show(name)}; expected 1 to {_LONGEST_ID} "
                    "characters."
                )
        try:
            data = scorer.read(row)
            prompt = template.render(row, scorer.shown(data))
            if not prompt.strip():
                raise ValueError("the prompt is empty")
            reply = self._reply(row, data)
            texts = [prompt, reply or "", options.system or ""]
            check_text([{"role": "user", "content": text} for text in texts])
        except BadInputError:
            raise
        except ValueError as err:
            raise BadInputError(f"{row.where}: {err}.") from err
        problem = f"{self.name}/{name}"
        self._replies[problem] = reply
        return Problem(problem, prompt, reply, data)

    def _reply(self, row: Row, data: Mapping[str, Any]) -> str | None:
        """A right reply, or None.

        Raises:
          ValueError: it is empty, or the scorer says that it is wrong.
        """
        options, scorer = self.options, self._scorer
        reply = scorer.gold(data)
        if options.reply is not None:
            reply = as_text(row, "the reply", value_of(row, "reply", options.reply))
            if not reply.strip():
                raise ValueError("the reply is empty")
        if reply is None:
            return None
        if isinstance(scorer, programs.ProgramScorer):
            return scorer.reply(reply)
        if wrong := scorer.judge(data, reply).wrong:
            raise ValueError(
                f"the reply {show(reply)} is wrong by the scorer {options.scorer} "
                f"({wrong.rstrip('.')})"
            )
        return reply


def _split_of(row: Row, name: str) -> Split:
    value = as_text(row, f"the field {show(name)}", field(row, "split", name))
    if value not in {*Split}:
        raise BadInputError(
            f"{row.where}: the field {show(name)} is {show(value)}; expected one of "
            f"{', '.join(Split)}."
        )
    return Split(value)


def _encodable(text: str) -> str:
    """Text with "?" for lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")
