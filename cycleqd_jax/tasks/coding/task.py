"""MBPP+ and HumanEval+: write a Python function, judged by EvalPlus's tests and rules.

The answer runs in the sandbox, with the inputs only. What its calls return is encoded
by `cycleqd_jax.tasks.values` and compared here. Quality is pass@1 on the base tests, as
in the published experiments; `plus` is pass@1 on base and plus tests.

Sources: evalplus/evalplus 0.3.1 (Apache-2.0), SakanaAI/CycleQD:tasks/mbpp.py.
"""

import asyncio
import dataclasses
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from cycleqd_jax.chat import Chat, Message
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.base import Problem, Result, Split, TaskSettings
from cycleqd_jax.tasks.coding import judge, prompts, sanitize, truth
from cycleqd_jax.tasks.coding.compare import Comparison, Rules
from cycleqd_jax.tasks.coding.data import (
    HUMANEVAL,
    MBPP,
    CodingProblem,
    Release,
    find_data,
    read_data,
)
from cycleqd_jax.tasks.coding.options import parse_options
from cycleqd_jax.tasks.data import check_fields, check_ids, seeded_splits

_PROTOCOL = 3  # raised when prompts or verdicts change


class EvalPlusTask:
    """A benchmark in EvalPlus's format; see `cycleqd_jax.tasks.base.Task`.

    Attributes:
      name: of the task.
      release: its data.
      max_new_tokens: of one reply.
      fingerprint: hex SHA-256 of all that decides problems and verdicts.
      data: the data file and its problems.
      options: the task's settings.
    """

    name: ClassVar[str]
    release: ClassVar[Release]
    free_options: ClassVar = ("data", "version", "sha256")  # the content is hashed

    def __init__(self, settings: TaskSettings):
        """Reads and checks the data; runs nothing.

        Raises:
          BadInputError: a setting or the data are wrong.
          MissingDataError: the data are not here and could not be downloaded.
        """
        options = parse_options(self.name, settings.options)
        path = find_data(self.release, options.data, options.version, settings.download)
        self.options = options
        self.data = read_data(self.release, path, options.version, options.sha256)
        self.max_new_tokens = options.max_new_tokens
        self._problems = {
            key: self._as_problem(problem)
            for key, problem in self.data.problems.items()
        }
        self._splits = self._make_splits(settings)
        self.fingerprint = self._make_fingerprint()
        self._sanitizer = sanitize.SanitizerProcess(options.sanitizer)
        self._truths = truth.Truths(self.data.path)

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of one split, in a fixed order."""
        return self._splits[split]

    def problem(self, key: str) -> Problem:
        """The problem with this id, like "Mbpp/3", whatever the splits.

        Raises:
          BadInputError: the file has no such problem.
        """
        check_ids(self.name, [key], self._problems)
        return self._problems[key]

    def transcript(self, row: Mapping[str, Any]) -> tuple[Problem, tuple[str, ...]]:
        """A problem and the reply to it, from a row with `task_id` and `completion`.

        Raises:
          BadInputError: the row lacks one of them, or there is no such problem.
        """
        where = f"A transcript of {self.name}"
        check_fields(where, row, {"task_id": str, "completion": str})
        return self.problem(row["task_id"]), (row["completion"],)

    def dialogue(self, problem: Problem) -> Sequence[Message]:
        """A right conversation: the reference solution in a code block."""
        prompt = prompts.make_prompt(problem.prompt, self.options.prompt)
        code = f"```python\n{problem.answer}\n```"
        return (*prompt.messages, {"role": "assistant", "content": code})

    async def run(self, problem: Problem, chat: Chat, sandbox: Sandbox) -> Result:
        """One episode: all samples of one problem.

        Raises:
          BadInputError: the problem's reference solution does not run.
          SandboxError: the sandbox or the sanitiser failed, so there is no verdict.
        """
        own = self.data.problems[problem.id]
        prompt = prompts.make_prompt(problem.prompt, self.options.prompt)
        samples = [
            await self._sample(own, prompt, index, chat, sandbox)
            for index in range(self.options.samples)
        ]
        code, verdict = samples[0]
        verdicts = [verdict for _, verdict in samples]
        return Result(
            verdict.outcome,
            code,
            verdict.explanation,
            turns=len(samples),
            prediction=code,
            metrics=_metrics(verdicts),
        )

    async def aclose(self) -> None:
        """Ends the sanitiser's process."""
        await asyncio.to_thread(self._sanitizer.close)

    async def _sample(
        self,
        problem: CodingProblem,
        prompt: prompts.Prompt,
        index: int,
        chat: Chat,
        sandbox: Sandbox,
    ) -> tuple[str, judge.Verdict]:
        """The code of one reply and its verdict."""
        options = dataclasses.replace(
            prompt.options,
            temperature=self.options.temperature,
            top_p=self.options.top_p,
            seed=_draw_seed(self.options.seed, problem.id, index),
        )
        beginning: Message = {"role": "assistant", "content": prompt.beginning}
        reply = await chat((*prompt.messages, beginning), options)
        body = sanitize.body_of(reply.text)
        code = await self._sanitizer.sanitize(
            f"{problem.prompt}\n{body}".strip(), problem.entry_point
        )
        if not body.strip():
            return code, judge.NO_CODE
        return code, await self.verdict(problem, code, sandbox)

    async def verdict(
        self, problem: CodingProblem, code: str, sandbox: Sandbox
    ) -> judge.Verdict:
        """The verdict on code, which is judged as it is.

        Raises:
          BadInputError, SandboxError: as in `run`.
        """
        expected = await self._truths.get(problem, sandbox)
        slowness = max(1.0, await self._truths.slowness(problem, sandbox))
        comparison = Comparison(
            self.release.dataset,
            problem.entry_point,
            problem.atol,
            Rules(self.options.rules),
        )
        return await judge.judge(problem, code, expected, comparison, slowness, sandbox)

    def _as_problem(self, problem: CodingProblem) -> Problem:
        try:
            instruction = prompts.instruction(self.release.dataset, problem)
        except ValueError as err:
            raise BadInputError(f"{self.data.path}: {problem.id}: {err}.") from err
        solution = problem.solution
        if self.release is HUMANEVAL:  # it completes the prompt
            solution = problem.prompt + solution
        return Problem(problem.id, instruction, solution.strip())

    def _make_splits(self, settings: TaskSettings) -> dict[Split, tuple[Problem, ...]]:
        whole = {"reference": Split.OPTIMISE, "test": Split.TEST}
        if (only := whole.get(self.options.split)) is not None:
            everything = tuple(self._problems.values())
            return {s: everything if s is only else () for s in Split}
        strata = dict.fromkeys(self._problems, "")
        ids = seeded_splits(self.name, strata, settings.sizes, settings.seed)
        return {s: tuple(self._problems[key] for key in ids[s]) for s in Split}

    def _make_fingerprint(self) -> str:
        options = self.options.model_dump(exclude={*self.free_options})
        content = [
            [_PROTOCOL, self.name, self.data.version, self.data.sha256],
            [options, importlib.metadata.version("evalplus")],
            [[p.id for p in self._splits[split]] for split in Split],
            [dataclasses.astuple(prompts.make_prompt("", self.options.prompt))],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class Mbpp(EvalPlusTask):
    """MBPP+."""

    name = "mbpp"
    release = MBPP


class HumanEval(EvalPlusTask):
    """HumanEval+."""

    name = "humaneval"
    release = HUMANEVAL


def _draw_seed(seed: int, problem: str, index: int) -> int:
    """The seed of one reply, 32 bits."""
    digest = hashlib.sha256(f"{seed}/{problem}/{index}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def _metrics(verdicts: Sequence[judge.Verdict]) -> dict[str, float]:
    """Shares of right samples; with several samples also pass@k for the usual k.

    pass@k = 1 - C(n - right, k) / C(n, k): the unbiased estimate of the probability
    that one of k samples is right (arXiv 2107.03374).
    """
    n = len(verdicts)
    right = {
        "base": sum(verdict.base for verdict in verdicts),
        "plus": sum(verdict.plus for verdict in verdicts),
    }
    metrics = {name: count / n for name, count in right.items()}
    if n > 1:
        for k in sorted({k for k in (1, 10, 100) if k <= n} | {n}):
            for name, count in right.items():
                wrong = math.comb(n - count, k) / math.comb(n, k)
                metrics[f"{name}_pass@{k}"] = 1.0 - wrong
    return metrics
