"""BigCodeBench: write a function that calls libraries, judged by unit tests.

An answer and its tests are one module in one process of the sandbox, as in the
benchmark. So an answer could cheat, and the task is only for `out_of_domain`, where
nothing is optimised by its verdicts.

Source: bigcodebench 0.2.5 (Apache-2.0), arXiv 2406.15877. Verdicts are its calibrated
pass@1 with one greedy reply.
"""

import asyncio
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from cycleqd_jax.chat import Chat, ChatOptions, Message
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import parse_section
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.base import Outcome, Problem, Result, Split, TaskSettings
from cycleqd_jax.tasks.bigcodebench import data, judge
from cycleqd_jax.tasks.bigcodebench.options import BigCodeBenchOptions
from cycleqd_jax.tasks.coding.sanitize import SanitizerProcess, body_of
from cycleqd_jax.tasks.coding.task import EvalPlusTask
from cycleqd_jax.tasks.coding.truth import Truths
from cycleqd_jax.tasks.data import check_fields, check_ids, seeded_splits

_PROTOCOL = 1  # raised when prompts or verdicts change
_DEMAND = (
    "Please provide a self-contained Python script that solves the following problem "
    "in a markdown code block:"
)
_BEGINNING = (
    "Below is a Python script with a self-contained function that solves the problem "
    "and passes corresponding tests:\n```python\n"
)
# A fence on a line of its own ends the code.
_OPTIONS = ChatOptions(stop_strings=("\n```",))


class BigCodeBench:
    """BigCodeBench; see `cycleqd_jax.tasks.base.Task`.

    Attributes:
      name: of the task.
      max_new_tokens: of one reply.
      fingerprint: hex SHA-256 of all that decides problems and verdicts.
      options: the task's settings.
      examples_from: a class whose code takes the answer out of a reply.
    """

    name: ClassVar[str] = data.NAME
    free_options: ClassVar = ("data", "sha256")  # the content is hashed
    examples_from: ClassVar = EvalPlusTask

    def __init__(self, settings: TaskSettings):
        """Reads and checks the data, and looks for the libraries that they need.

        Raises:
          BadInputError: a setting or the data are wrong, a library is missing, or the
            task is to be optimised.
          MissingDataError: the data are not here.
        """
        wrong = [s for s, size in settings.sizes.items() if size and s != Split.TEST]
        if wrong:
            raise BadInputError(
                "tasks: bigcodebench has problems of test only, because an answer "
                "shares a process with its tests and a search could learn to cheat; "
                "name it in out_of_domain."
            )
        where = f"task_settings.{self.name}"
        self.options = parse_section(where, settings.options, BigCodeBenchOptions)
        self.max_new_tokens = self.options.max_new_tokens
        path = data.find_data(self.options)
        everything, self._sha256 = data.read_data(path, self.options.sha256)
        own = data.without_missing(everything, path, self.options.libraries)
        self._own = own
        self._problems = {key: self._as_problem(one) for key, one in own.items()}
        chosen = tuple(own)
        if self.options.split == "seeded":
            strata, seed = dict.fromkeys(own, ""), settings.seed
            sizes = {Split.TEST: settings.sizes.get(Split.TEST, 0)}
            chosen = seeded_splits(self.name, strata, sizes, seed)[Split.TEST]
        self._chosen = tuple(self._problems[key] for key in chosen)
        self.fingerprint = self._make_fingerprint()
        self._sanitizer = SanitizerProcess("bigcodebench")
        self._references, self._speed = judge.References(), Truths(path)

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of `test`, in a fixed order; other splits have none."""
        return self._chosen if split is Split.TEST else ()

    def problem(self, key: str) -> Problem:
        """The problem with this id, like "BigCodeBench/3", whatever the splits.

        Raises:
          BadInputError: the file has no such problem.
        """
        check_ids(self.name, [key], self._problems)
        return self._problems[key]

    def transcript(self, row: Mapping[str, Any]) -> tuple[Problem, tuple[str, ...]]:
        """A problem and the reply to it, from a row with `task_id` and `solution`.

        Raises:
          BadInputError: the row lacks one of them, or there is no such problem.
        """
        where = f"A transcript of {self.name}"
        check_fields(where, row, {"task_id": str, "solution": str})
        return self.problem(row["task_id"]), (row["solution"],)

    def dialogue(self, problem: Problem) -> Sequence[Message]:
        """A right conversation: the reference solution in a code block."""
        reply = f"{_BEGINNING}{problem.answer}\n```"
        return (*self._prompt(problem), {"role": "assistant", "content": reply})

    async def run(self, problem: Problem, chat: Chat, sandbox: Sandbox) -> Result:
        """One episode.

        Its metric `reference` is 1 where the reference solution passes on this machine,
        so its mean is the score that no model is expected to be above.

        Raises:
          SandboxError: the sandbox or the sanitiser failed, so there is no verdict.
        """
        own = self._own[problem.id]
        beginning: Message = {"role": "assistant", "content": _BEGINNING}
        reply = await chat((*self._prompt(problem), beginning), _OPTIONS)
        body = body_of(reply.text)
        code = await self._sanitizer.sanitize(body.strip(), own.entry_point)
        outcome, explanation = Outcome.BAD_ACTION, "The reply holds no code."
        slowness = max(1.0, await self._speed.slowness(problem, sandbox))
        seconds = slowness * self.options.timeout_s
        if body.strip():
            verdict = await self.verdict(own, code, seconds, sandbox)
            outcome = Outcome.SOLVED if verdict.right else Outcome.WRONG
            explanation = verdict.explanation
        passes = await self._references.passes(own, seconds, sandbox)
        return Result(
            outcome,
            code,
            explanation,
            turns=1,
            prediction=code,
            metrics={"reference": float(passes)},
        )

    async def verdict(
        self, problem: data.BigCodeProblem, code: str, seconds: float, sandbox: Sandbox
    ) -> judge.Verdict:
        """The verdict on code after the head of the function, as the benchmark has it.

        Its calibration: imports that only the prompt shows are there, whether or not
        the reply repeats them.

        Raises:
          SandboxError: as in `run`.
        """
        calibrated = f"{problem.begun}\n    pass\n{code}"
        return await judge.judge(problem, calibrated, seconds, sandbox)

    async def aclose(self) -> None:
        """Ends the sanitiser's process."""
        await asyncio.to_thread(self._sanitizer.close)

    def _prompt(self, problem: Problem) -> tuple[Message, ...]:
        return ({"role": "user", "content": problem.prompt},)

    def _as_problem(self, own: data.BigCodeProblem) -> Problem:
        if self.options.prompt == "complete":
            text = f"{_DEMAND}\n```\n{own.complete.strip()}\n```\n"
        else:
            text = f"{_DEMAND}\n{own.instruct.strip()}\n"
        return Problem(own.id, text, f"{own.complete.rstrip()}\n{own.solution}".strip())

    def _make_fingerprint(self) -> str:
        options = self.options.model_dump(exclude={*self.free_options})
        content = [
            [_PROTOCOL, self.name, self._sha256, options],
            [importlib.metadata.version("evalplus"), _DEMAND, _BEGINNING],
            [problem.id for problem in self._chosen],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
