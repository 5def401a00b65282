"""DBBench of AgentBench: questions about a table, answered through SQL.

An episode is a conversation. A reply may run one statement, whose result comes back as
the next message; a reply without a statement ends the episode. Questions are judged by
the values in the last reply, modifications by the content of the table.

Paper: AgentBench (arXiv 2308.03688). The protocol is the one of CycleQD's reference,
SakanaAI/CycleQD:evaluation/fishfarm/fishfarm/tasks/dbbench.py.
"""

import functools
import hashlib
import importlib
import json
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from cycleqd_jax.chat import DEFAULT_CHAT, Chat, ChatOptions, Message
from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.base import Outcome, Problem, Result, Split, TaskSettings
from cycleqd_jax.tasks.data import check_ids, file_hash, seeded_splits
from cycleqd_jax.tasks.dbbench import judge, metrics, protocol
from cycleqd_jax.tasks.dbbench.actions import Action, parse_reply, shorten
from cycleqd_jax.tasks.dbbench.data import Case, read_problems
from cycleqd_jax.tasks.dbbench.settings import read_options

if typing.TYPE_CHECKING:  # they need PyMySQL
    from cycleqd_jax.tasks.dbbench.database import Database
    from cycleqd_jax.tasks.dbbench.legacy import SharedDatabase, SharedDatabases
    from cycleqd_jax.tasks.dbbench.live_server import LiveServer
    from cycleqd_jax.tasks.dbbench.servers import Server

_VERSION = "dbbench/3"  # part of the fingerprint: raised when verdicts change


class DBBench:
    """See `cycleqd_jax.tasks.base.Task`."""

    name = "dbbench"
    summarise = staticmethod(metrics.summarise)
    free_options = ("data", "backend", "url", "connections")  # the server is hashed

    def __init__(self, settings: TaskSettings):
        """Reads the problems; no server is started or asked before it is needed.

        Args:
          settings: seed, sizes and, as options, those of `dbbench.settings.Options`.

        Raises:
          BadInputError: an option or a file is wrong.
          MissingDataError: the problems or what belongs to them are not here.
        """
        options = read_options(settings.options)
        self.options = options
        self._settings = settings
        self.max_new_tokens = options.max_new_tokens
        self._data = protocol.find_data(options.data, settings.download)
        self._messages = protocol.read_messages(self._data)
        self._all = read_problems(self._data)
        self._splits = self._cut()
        self._chat = DEFAULT_CHAT
        if options.chat_template == "reference":
            self._chat = ChatOptions(template=protocol.read_template(self._data))
        self._live: LiveServer | None = None
        self._shared: SharedDatabases | None = None
        if options.backend == "server":
            _ = self._server  # a wrong URL is told at once

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the problems, the prompt and everything that decides verdicts.

        Raises:
          BadInputError, SandboxError: it is not known which server there is.
        """
        content = [
            _VERSION,
            file_hash(self._data),
            [dict(message) for message in self._messages],
            self._chat.template,
            {split: [p.id for p in ids] for split, ids in self._splits.items()},
            self.options.model_dump(mode="json", exclude={*self.free_options}),
            self._server.version(),
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of one split, in a fixed order."""
        return self._splits[split]

    def problem(self, key: int | str) -> Problem:
        """Any problem of the data, in a split or not, by the index of its line.

        Raises:
          BadInputError: there is no such problem.
        """
        if isinstance(key, bool) or not str(key).isdecimal():
            raise BadInputError(
                f"Task {self.name} has no problem {key!r}; expected an index from 0 to "
                f"{len(self._all) - 1}."
            )
        problem_id = f"{self.name}/{int(key)}"
        check_ids(self.name, (problem_id,), {p.id: p for p in self._all})
        return self._all[int(key)]

    def transcript(self, row: Mapping[str, Any]) -> tuple[Problem, tuple[str, ...]]:
        """The problem and the replies of a recorded episode.

        Args:
          row: with `problem_index` and `outputs`.

        Raises:
          BadInputError: one of them is missing, or there is no such problem.
        """
        outputs = row.get("outputs")
        if (
            "problem_index" not in row
            or not isinstance(outputs, Sequence)
            or isinstance(outputs, str)
            or not all(isinstance(output, str) for output in outputs)
        ):
            raise BadInputError(
                f"Transcripts of {self.name} have problem_index and outputs, a list of "
                f"texts; one has {', '.join(map(str, row)) or 'nothing'}."
            )
        return self.problem(row["problem_index"]), tuple(outputs)

    def dialogue(self, problem: Problem) -> Sequence[Message]:
        """A right conversation; of a modification, with the statement that makes it."""
        case: Case = problem.data["case"]
        messages = list(protocol.fill(self._messages, problem.prompt))
        values = ["done"] if case.modifies else list(case.label)
        if case.modifies:
            messages += [
                _said(f"Action: Operation\n```sql\n{case.label[0]}\n```"),
                {"role": "user", "content": "[]"},
            ]
        answer = json.dumps(values, ensure_ascii=False)
        return [*messages, _said(f"Action: Answer\nFinal Answer: {answer}")]

    async def run(self, problem: Problem, chat: Chat, sandbox: Sandbox) -> Result:
        """One episode.

        Args:
          problem: one of this task's.
          chat: is asked for at most `rounds + 1` replies.
          sandbox: not used; the database server runs the statements.

        Raises:
          SandboxError: the server failed; there is no verdict.
          BadInputError: the server is missing, or refuses our account.
        """
        try:
            return await self._episode(problem, chat)
        except SandboxError as err:
            raise SandboxError(f"Problem {problem.id}: {err}") from err
        except BadInputError as err:
            raise type(err)(f"Problem {problem.id}: {err}") from err

    async def aclose(self) -> None:
        """Drops the databases, closes connections and ends a private server."""
        live, self._live, self._shared = self._live, None, None
        if live is not None:
            await live.aclose()

    async def _episode(self, problem: Problem, chat: Chat) -> Result:
        case: Case = problem.data["case"]
        messages = list(protocol.fill(self._messages, problem.prompt))
        feedback: list[str] = []
        database = self._open(case)
        try:
            for turn in range(self.options.rounds + 1):
                reply = await chat(tuple(messages), self._chat)
                action = parse_reply(reply.text)
                if action.statement is None or turn == self.options.rounds:
                    break
                output = shorten(await database.execute(action.statement))
                feedback.append(output)
                messages += [_said(reply.text), {"role": "user", "content": output}]
            return await self._judge(case, action, database, tuple(feedback))
        finally:
            await database.close()

    @functools.cached_property
    def _server(self) -> "Server":
        return _import("servers").choose_server(self.options)

    def _open(self, case: Case) -> "Database | SharedDatabase":
        """The problem's database; the server is not started or asked yet."""
        if self._live is None:
            self._live = _import("live_server").LiveServer(
                self._server,
                connections=self.options.connections,
                statement_s=self.options.statement_s,
            )
        if not self.options.legacy_shared_database:
            return _import("database").Database(self._live, case.table)
        if self._shared is None:
            played = self._splits[Split.OPTIMISE] or self._all
            cases = [problem.data["case"] for problem in played]
            shared = _import("legacy").SharedDatabases
            self._shared = shared(self._live, cases)
        return self._shared.open(case)

    async def _judge(
        self,
        case: Case,
        action: Action,
        database: "Database | SharedDatabase",
        feedback: tuple[str, ...],
    ) -> Result:
        answer = action.answer or ""
        prediction = shorten(await database.state()) if case.modifies else answer
        right = judge.is_right(case.category, prediction, case.target)
        if right:
            outcome, explanation = Outcome.SOLVED, "Right."
        elif action.operates and len(feedback) == self.options.rounds:
            outcome = Outcome.ROUND_LIMIT
            explanation = "The last reply was a statement, not an answer."
        elif action.answer is None:
            outcome, explanation = Outcome.BAD_ACTION, "The reply has no answer."
        else:
            outcome = Outcome.WRONG
            explanation = "The table is not as it should be."
            if not case.modifies:
                explanation = f"Expected {', '.join(case.label)[:200]}."
        turns = len(feedback) + 1
        return Result(
            outcome,
            answer,
            explanation,
            turns,
            prediction,
            feedback,
            {
                f"{case.category}_accuracy": float(right),
                f"{metrics.group(case.category)}_accuracy": float(right),
                "messages": float(metrics.FIRST_MESSAGES + turns + len(feedback)),
            },
        )

    def _cut(self) -> dict[Split, tuple[Problem, ...]]:
        """The splits."""
        known = {problem.id: problem for problem in self._all}
        optimise: list[str] = []
        sizes = {split: self._settings.sizes.get(split, 0) for split in Split}
        if self.options.split == "reference":
            optimise = [f"{self.name}/{i}" for i in protocol.read_ids(self._data)]
            check_ids(self.name, optimise, known)
            sizes[Split.OPTIMISE] = 0
        strata = {
            problem.id: problem.data["case"].category
            for problem in self._all
            if problem.id not in set(optimise)
        }
        cut = seeded_splits(self.name, strata, sizes, self._settings.seed)
        if optimise:
            cut[Split.OPTIMISE] = tuple(optimise)
        return {split: tuple(known[i] for i in cut[split]) for split in Split}


def _import(module: str) -> Any:
    """A module of this folder that needs PyMySQL."""
    try:
        return importlib.import_module(f"{__package__}.{module}")
    except ImportError as err:
        raise BadInputError(
            f"Task dbbench needs PyMySQL ({err}); install it with: "
            "pip install 'cycleqd-jax[dbbench]'"
        ) from err


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}
