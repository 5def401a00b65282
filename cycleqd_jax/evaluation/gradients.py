"""Gradients on right answers of problems: from tasks to rows of tokens."""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cycleqd_jax.chat import Message
from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.evaluation.base import (
    Cost,
    Gradients,
    ProblemIds,
    Replies,
    select_problems,
)
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.inference.rows import Row
from cycleqd_jax.inference.stats import EngineStats
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.models.dialogues import examples_of, turn_end
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.tasks.base import Problem, Split, Task, opening, reference


class AnswerRows(NamedTuple):
    """One genome on one problem's right answer.

    Attributes:
      task: index of the problem's task.
      problem: whose answer.
      tokens: number of learnt tokens of all rows.
      rows: one row per part of the dialogue that has a prompt of its own.
    """

    task: int
    problem: Problem
    tokens: int
    rows: tuple[Row, ...]


def answer_gradients(
    loader: IndividualLoader,
    tasks: Sequence[Task],
    genomes: Sequence[Genome],
    task_weights: np.ndarray,
    split: Split,
    problems: Sequence[ProblemIds],
    replies: Replies | None = None,
) -> Gradients:
    """Gradients of the loss on right answers; see `Evaluator.gradient`.

    Genomes are computed in factored form whatever the engine's mode is. All problems
    are looked up before anything is computed.

    Args:
      loader: of the genomes; its base weights are used as they are.
      tasks: K tasks, in order.
      genomes: P genomes.
      task_weights: float32 `[P, K]`.
      split: whose problems.
      problems: P entries.
      replies: right answers; None takes reference answers.

    Raises:
      BadInputError: as `Evaluator.gradient`.
      RunError: a loss or a gradient is not finite.
    """
    start, compute = time.perf_counter(), loader.gradients()
    tokenizer, per_call = loader.engine.tokenizer, compute.num_genomes
    end = turn_end(tokenizer)
    answers = [
        _answers(
            i % per_call,
            _chosen(tasks, split, chosen, replies),
            [task.name for task in tasks],
            task_weights[i],
            tokenizer,
            end,
        )
        for i, chosen in enumerate(problems)
    ]
    losses, gradients, tokens = [], [], 0
    for first in range(0, len(genomes), per_call):
        some = answers[first : first + per_call]
        rows = [row for own in some for answer in own for row in answer.rows]
        found = compute(loader.weights, genomes[first : first + per_call], rows)
        logprobs = iter(found.logprobs.tolist())
        for i, own in enumerate(some):
            losses.append(_losses(own, logprobs, len(tasks), f"genome {first + i}"))
            if not np.isfinite(found.gradients[i]).all():
                raise RunError(f"genome {first + i}: its gradient {_NOT_FINITE}.")
        gradients.append(found.gradients)
        tokens += sum(len(row.tokens) - 1 for row in rows)
    seconds = time.perf_counter() - start
    cost = Cost(tokens, tokens, seconds, EngineStats(gradient_seconds=seconds))
    return Gradients(np.asarray(losses), np.concatenate(gradients), cost)


_NOT_FINITE = (
    "is NaN or infinite, because its weights are too large for the model's dtype; "
    "take smaller steps, or check the scale of the experts"
)


def _chosen(
    tasks: Sequence[Task],
    split: Split,
    problems: ProblemIds,
    replies: Replies | None,
) -> list[tuple[Task, Problem, Sequence[Message]]]:
    """Problems with a right conversation, in the order of tasks and of their problems.

    Raises:
      BadInputError: none is known for one of them, or a name is unknown.
    """
    found = []
    for task, problem in select_problems(tasks, split, problems):
        if replies is None:
            dialogue = reference(task, problem)
        elif (text := replies.get(task.name, {}).get(problem.id)) is not None:
            answer = {"role": "assistant", "content": text}
            dialogue = [*opening(task, problem), answer]
        else:
            dialogue = None
        if dialogue is None:
            raise BadInputError(
                f"problems: {problem.id} of {task.name} has no right answer, which "
                "gradients need; leave it out."
            )
        found.append((task, problem, dialogue))
    return found


def _answers(
    genome: int,
    chosen: Sequence[tuple[Task, Problem, Sequence[Message]]],
    names: Sequence[str],
    task_weights: np.ndarray,
    tokenizer: ChatTokenizer,
    end: int,
) -> list[AnswerRows]:
    """One genome's rows, in the order of the chosen problems."""
    counts = [sum(task.name == name for task, _, _ in chosen) for name in names]
    found = []
    for task, problem, dialogue in chosen:
        k = names.index(task.name)
        examples = examples_of(dialogue, tokenizer, end)
        tokens = sum(len(example.learnt) for example in examples)
        weight = float(task_weights[k]) / (counts[k] * tokens)
        rows = tuple(Row(genome, e.tokens, e.learnt, weight) for e in examples)
        found.append(AnswerRows(k, problem, tokens, rows))
    return found


def _losses(
    answers: Sequence[AnswerRows], logprobs, num_tasks: int, name: str
) -> list[float]:
    """Mean losses per task, as `mean_losses` has them; takes what it needs in order."""
    by_task: list[list[float]] = [[] for _ in range(num_tasks)]
    for answer in answers:
        logprob = math.fsum(next(logprobs) for _ in answer.rows)
        if not math.isfinite(logprob):
            raise RunError(f"{name} on {answer.problem.id}: its loss {_NOT_FINITE}.")
        by_task[answer.task].append(-logprob / answer.tokens)
    return [sum(own) / len(own) if own else math.nan for own in by_task]
