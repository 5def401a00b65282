"""Dialogues in which experts solved `train` problems, as data to learn from.

They stand in for right answers where a task has none: each task's expert is run over
the task's `train` problems, and the conversations that the verdict accepts are kept,
all turns of them. A task without an expert is tried by all experts, one after the
other, each on the problems that are still unsolved. A folder of dialogues has

  inputs.json       hashes of everything that decides the replies
  parts/            what is done so far, so that a killed collection goes on
  TASK.jsonl        the dialogues of a task, a source for `experiments.train_experts`
  accepted.json     how many problems were solved, and what it cost
"""

import asyncio
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cycleqd_jax import files
from cycleqd_jax.chat import DEFAULT_CHAT, Chat, ChatOptions, Message, Reply
from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError, advising
from cycleqd_jax.evaluation.base import Evaluator
from cycleqd_jax.evaluation.local import LocalEvaluator
from cycleqd_jax.evaluation.whole import WholeModels
from cycleqd_jax.merging.individuals import TrainedExpert
from cycleqd_jax.models.loading import load_model
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.engine_sizes import (
    check_length,
    check_prompts,
    choose_slots_alone,
)
from cycleqd_jax.runs.engines import make_loader, make_mesh
from cycleqd_jax.runs.source_hashes import shared_judges, task_judges
from cycleqd_jax.runs.tasks import make_tasks
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.tasks.base import Problem, Result, Split, Task

_PART = 128  # problems; a kill undoes the replies of one part
_COSTS = ("tokens_forward", "tokens_backward", "seconds")


class RecordedTask:
    """A task that remembers the conversation of each problem's last episode.

    Attributes:
      task: the task itself; whatever else is asked of this one, it answers.
      dialogues: the messages of each problem's last episode, by the problem's id.
    """

    def __init__(self, task: Task):
        self.task = task
        self.dialogues: dict[str, tuple[Message, ...]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    async def run(self, problem: Problem, chat: Chat, sandbox: Sandbox) -> Result:
        """One episode; see `Task.run`."""

        async def recorded(
            messages: Sequence[Message], options: ChatOptions = DEFAULT_CHAT
        ) -> Reply:
            reply = await chat(messages, options)
            self.dialogues[problem.id] = _with_reply(messages, reply.text)
            return reply

        self.dialogues.pop(problem.id, None)
        return await self.task.run(problem, recorded, sandbox)


def collect_accepted(config: RunConfig, folder: pathlib.Path, observer: Observer):
    """Runs every expert over its task's `train` problems and writes what it solved.

    Args:
      config: tasks, experts, problems, engine and sandbox; the rest is not used.
      folder: created if needed. What is in it already is not made again.
      observer: is told of phases and episodes.

    Raises:
      BadInputError: a task has no `train` problems, an input is missing or damaged, or
        the folder has replies of other inputs.
      RunError: an environment failed; what is done is kept.
    """
    tasks = make_tasks(config.tasks, config.problems, config.task_settings)
    for task in tasks:
        if not task.problems(Split.TRAIN):
            raise BadInputError(
                f"problems.train is {config.problems.train}, so {task.name} has no "
                "problem to collect replies on; set it to 1 or more."
            )
    observer.phase("loading the base model")
    model = load_model(config.base_model, dtype=config.dtype, date=config.date)
    check_length(config.engine, model.config)
    engine = check_prompts(tasks, [Split.TRAIN], model.tokenizer, config.engine)
    engine = choose_slots_alone(engine, model.config, config.dtype)
    observer.phase("loading the experts")
    experts = config.name_experts([task.name for task in tasks])
    whole = WholeModels(model, experts, make_mesh(engine.mesh))
    inputs = {
        "base model": model.fingerprint,
        "engine.length": engine.length,
        "sandbox and scoring code": shared_judges(),
    }
    for name in experts:
        inputs[f"expert {name}"] = whole.expert(TrainedExpert(name)).fingerprint
    for task in tasks:
        inputs[f"task {task.name}"] = [task.fingerprint, task_judges(type(task))]
    _begin(folder, inputs)
    asyncio.run(make_sandbox(config.sandbox).close())  # refused here if missing
    loader = make_loader(whole, engine, weights={})
    recorded = [RecordedTask(task) for task in tasks]
    sandbox = make_sandbox(config.sandbox)
    found = {}
    with LocalEvaluator(loader, tasks=recorded, sandbox=sandbox) as evaluator:
        for task in recorded:
            observer.phase(f"collecting solutions of {task.name}")
            solvers = [task.name] if task.name in experts else list(experts)
            found[task.name] = _collect(
                evaluator, task, solvers, folder / "parts", observer
            )
    for name, parts in found.items():
        lines = [line for part in parts for line in part["accepted"]]
        solved, tried = len(lines), sum(part["problems"] for part in parts)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        files.write_text(folder / f"{name}.jsonl", text)
        observer.note(f"{name}: {solved} of {tried} problems solved")
    files.write_json(folder / "accepted.json", _facts(found))


def _begin(folder: pathlib.Path, inputs: Mapping[str, Any]) -> None:
    """Writes the inputs, or compares them with those in the folder."""
    path = folder / "inputs.json"
    if path.exists():
        known = files.read_sealed(path)
        for name in {**inputs, **known}:
            if inputs.get(name) != known.get(name):
                raise BadInputError(
                    f"{folder}: has replies that were collected with another {name}; "
                    "choose another folder, or remove it to collect them again."
                )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInputError(f"{folder}: exists and is not empty; choose another.")
    else:
        files.write_sealed(path, dict(inputs))


def _collect(
    evaluator: Evaluator,
    task: RecordedTask,
    experts: Sequence[str],
    folder: pathlib.Path,
    observer: Observer,
) -> list[dict[str, Any]]:
    """The parts of one task, from their files or else from episodes."""
    problems, parts = task.problems(Split.TRAIN), []
    for start in range(0, len(problems), _PART):
        path = folder / f"{task.name}-{start:06d}.json"
        if not path.exists():
            ids = [problem.id for problem in problems[start : start + _PART]]
            files.write_sealed(path, _part(evaluator, task, experts, ids))
        with advising("remove it to collect its replies again"):
            parts.append(files.read_sealed(path))
        observer.episodes(min(start + _PART, len(problems)), len(problems))
    return parts


def _part(
    evaluator: Evaluator, task: RecordedTask, experts: Sequence[str], ids: Sequence[str]
) -> dict[str, Any]:
    """The first accepted dialogue of each problem, in the order of problems."""
    solved: dict[str, dict[str, Any]] = {}
    spent = dict.fromkeys(_COSTS, 0)
    for expert in experts:
        if not (left := [id_ for id_ in ids if id_ not in solved]):
            break
        episodes, cost = evaluator.evaluate(
            {expert: TrainedExpert(expert)}, Split.TRAIN, problems={task.name: left}
        )
        spent = {name: spent[name] + getattr(cost, name) for name in _COSTS}
        for episode in episodes:
            messages = task.dialogues[episode.problem]
            if episode.score == 1.0 and _is_text(messages):
                solved[episode.problem] = {
                    "messages": list(messages),
                    "task": task.name,
                    "problem": episode.problem,
                    "expert": expert,
                }
    accepted = [solved[id_] for id_ in ids if id_ in solved]
    return {"problems": len(ids), "accepted": accepted, "cost": spent}


def _with_reply(messages: Sequence[Message], text: str) -> tuple[Message, ...]:
    """The conversation with a reply, whose beginning may be the last message."""
    turns = [dict(message) for message in messages]
    if turns[-1]["role"] == "assistant":
        text = turns.pop()["content"] + text
    return (*turns, {"role": "assistant", "content": text})


def _is_text(messages: Sequence[Message]) -> bool:
    """True if no reply is blank, which nobody can learn."""
    return all(m["content"].strip() for m in messages if m["role"] == "assistant")


def _facts(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The content of `accepted.json`."""
    tasks = {
        name: {
            "problems": sum(part["problems"] for part in parts),
            "accepted": sum(len(part["accepted"]) for part in parts),
            **{cost: sum(part["cost"][cost] for part in parts) for cost in _COSTS},
        }
        for name, parts in found.items()
    }
    totals = {cost: sum(task[cost] for task in tasks.values()) for cost in _COSTS}
    return totals | {"tasks": tasks}
