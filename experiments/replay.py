r"""Plays given replies instead of a model's through the episodes of a task.

    python -m experiments.replay --task dbbench --data FOLDER \
        --transcripts FILE.jsonl --out FILE.jsonl

It is how a finished run is scored again, and how a harness is compared with another:
the very same code runs that runs in a search. `--transcripts` is a file with one JSON
object per line (`problem_index` and `outputs`; of coding `task_id` and `completion`;
`id` is kept), or a run folder, whose episodes of the task are all played again. One
line of `--out` per case: `id`, `correct` (coding: `base` and `plus`), `turns_used`,
`prediction`, `feedback`.

Exit codes: 0 all played, 1 an environment failed or a transcript was too short (what
was played is in the file; `--resume` goes on behind it), 2 bad input, 130 interrupted.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import yaml

from cycleqd_jax.chat import DEFAULT_CHAT, ChatOptions, Message, Reply
from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.reports import console
from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.sandbox.settings import SandboxSettings
from cycleqd_jax.tasks.base import Problem, Result, Task, TaskSettings
from cycleqd_jax.tasks.data import read_jsonl
from cycleqd_jax.tasks.registry import make_task

_AT_ONCE = 16  # episodes under way: more wait for the sandbox anyway


class Case(NamedTuple):
    """One recorded episode.

    Attributes:
      id: of the case.
      problem: what was asked.
      replies: in order.
    """

    id: str
    problem: Problem
    replies: tuple[str, ...]


class TooShortError(RunError):
    """An episode asked for more replies than its transcript has."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and plays; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--task", required=True, help="a name like dbbench, or an import path")
    add("--data", help="the problem file; for OS interaction its folder")
    path = {"required": True, "type": console.path}
    add("--transcripts", **path, help="a .jsonl file, or a run folder")
    add("--out", **path, help="the .jsonl file to write")
    add("--backend", help="of tasks that have several")
    add("--sanitizer", help="of coding: evalplus or reference")
    add(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a further one of the task's settings, like rounds=8; may be repeated",
    )
    add("--sandbox", default="bubblewrap", choices=("bubblewrap", "none"))
    add("--workers", type=int, default=2, help="programs in the sandbox at once")
    add("--resume", action="store_true", help="go on behind what --out has already")
    args = parser.parse_args(argv)
    return console.guarded(
        lambda: _replay(args),
        interrupted=f"What was played is in {args.out}; --resume goes on behind it.",
    )


def _replay(args: argparse.Namespace) -> int:
    console.set_up_process()
    if args.workers < 1:
        raise BadInputError(f"--workers: expected at least 1, got {args.workers}.")
    options = {name: _value(text) for name, text in map(_option, args.option)}
    for name in ("data", "backend", "sanitizer"):
        if getattr(args, name) is not None:
            options[name] = getattr(args, name)
    task = make_task(args.task, TaskSettings(options=options))
    if not hasattr(task, "transcript"):
        raise BadInputError(
            f"--task: {args.task} cannot be replayed; expected one with `transcript`."
        )
    cases = list(_cases(task, pathlib.Path(args.transcripts)))
    out = pathlib.Path(args.out)
    done = _done(out, args.resume)
    for place, (name, case) in enumerate(zip(done, cases, strict=False), 1):
        if name != case.id:
            raise BadInputError(
                f"{out}, line {place}: is of case {name}, but the transcripts have "
                f"{case.id} there; expected what an earlier replay of them wrote."
            )
    sandbox = make_sandbox(
        SandboxSettings(kind=args.sandbox, workers=args.workers, memoise=False)
    )
    with open(out, "a", encoding="utf-8") as file:
        asyncio.run(_play_all(task, cases[len(done) :], sandbox, file))
    print(f"{len(cases)} cases: {out}")
    return console.DONE


async def _play_all(task: Task, cases: Sequence[Case], sandbox: Sandbox, file) -> None:
    """Writes a line per case in order, each as soon as all before it are there."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(case: Case) -> dict[str, Any]:
        async with places:
            return as_line(case, await play(task, case, sandbox))

    running = collections.deque(asyncio.ensure_future(one(case)) for case in cases)
    try:
        while running:
            line = await running[0]
            running.popleft()
            # In ASCII: half a surrogate pair, which JSON can hold, is no UTF-8.
            file.write(json.dumps(line) + "\n")
            file.flush()
    finally:
        for left in running:
            left.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await sandbox.close()
        if hasattr(task, "aclose"):
            await task.aclose()


async def play(task: Task, case: Case, sandbox: Sandbox) -> Result:
    """The verdict on a recorded episode.

    Raises:
      TooShortError: it asks for more replies than there are.
      SandboxError: the environment failed.
    """
    replies = iter(case.replies)

    async def chat(
        messages: Sequence[Message], options: ChatOptions = DEFAULT_CHAT
    ) -> Reply:
        for text in replies:
            return Reply(text)
        raise TooShortError(
            f"Case {case.id}: its transcript has {len(case.replies)} replies, but the "
            "episode asks for one more."
        )

    return await task.run(case.problem, chat, sandbox)


def as_line(case: Case, result: Result) -> dict[str, Any]:
    """The row that is written for a case."""
    line: dict[str, Any] = {"id": case.id}
    if {"base", "plus"} <= set(result.metrics):
        line |= {name: result.metrics[name] == 1.0 for name in ("base", "plus")}
    else:
        line["correct"] = result.score == 1.0
    return line | {
        "turns_used": result.turns,
        "prediction": result.prediction,
        "feedback": list(result.feedback),
        "explanation": result.explanation,
    }


def _cases(task: Task, source: pathlib.Path) -> Iterator[Case]:
    if source.is_dir():
        yield from _episodes(task, source)
        return
    for number, row in enumerate(read_jsonl(source, {}, halves=True), 1):
        try:
            problem, replies = task.transcript(row)
        except BadInputError as err:
            raise BadInputError(f"{source}, line {number}: {err}") from err
        yield Case(str(row.get("id", problem.id)), problem, replies)


def _episodes(task: Task, run: pathlib.Path) -> Iterator[Case]:
    """The episodes of this task in a run folder."""
    for row in open_run(run).episodes(task.name):
        key = row["problem"].removeprefix(f"{task.name}/")
        # A repeated problem has the number of the repetition behind its own.
        index = key.partition("/")[0]
        problem = task.problem(int(index) if index.isdecimal() else key)
        name = f"{row['individual']}/{row['problem']}"
        yield Case(name, problem, tuple(row["replies"]))


def _done(out: pathlib.Path, resume: bool) -> list[str]:
    """The ids of the cases that an earlier replay has written."""
    if not out.parent.is_dir():
        raise BadInputError(f"--out: expected a file in a folder that is there: {out}.")
    if not out.exists() or not out.stat().st_size:
        return []
    if not resume:
        raise BadInputError(
            f"--out: {out} exists; give another name, delete it, or add --resume to go "
            "on behind what it has."
        )
    content = out.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:  # the last line was cut off
        with contextlib.closing(open(out, "r+b")) as file:
            file.truncate(len(whole))
    if not whole:
        return []
    return [str(row["id"]) for row in read_jsonl(out, {"id": str}, halves=True)]


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadInputError(f"--option: expected KEY=VALUE, got {text!r}.")
    return name, value


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise BadInputError(f"--option: {text!r} is no YAML value.") from err


if __name__ == "__main__":
    sys.exit(main())
