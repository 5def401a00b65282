"""One problem for one individual on the engine: its episode, its reference answer."""

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

from cycleqd_jax.chat import Reply
from cycleqd_jax.errors import RunError
from cycleqd_jax.evaluation.base import Episode, ReferenceScore
from cycleqd_jax.evaluation.chats import EngineChat
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.requests import NotFiniteError
from cycleqd_jax.inference.slots import Conversation
from cycleqd_jax.models.dialogues import examples_of, turn_end
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.base import Problem, Split, Task, reference, run_episode


class Case(NamedTuple):
    """One problem for one individual.

    Attributes:
      individual: its name.
      row: its index in the engine's population.
      split: the problem's.
      task: the problem's.
      problem: to be solved or scored.
      priority: index of the problem in the call; the engine serves low ones first.
    """

    individual: str
    row: int
    split: Split
    task: Task
    problem: Problem
    priority: int


async def play(
    case: Case, turns: Conversation, engine: Engine, sandbox: Sandbox
) -> tuple[Episode, int]:
    """Runs one episode.

    Args:
      case: the individual and the problem.
      turns: the conversation of the individual.
      engine: generates the replies.
      sandbox: runs the task's programs.

    Returns:
      The episode, and the tokens that went through the model for it.

    Raises:
      RunError: the environment failed, or a logit is not finite.
    """
    start, task, problem = time.perf_counter(), case.task, case.problem
    chat = EngineChat(engine, turns, task.max_new_tokens)
    with _naming(case):
        result = await run_episode(task, problem, chat.afresh, sandbox)
    replies = chat.replies
    last = replies[-1] if replies else Reply("")
    episode = Episode(
        individual=case.individual,
        split=str(case.split),
        task=task.name,
        problem=problem.id,
        outcome=str(result.outcome),
        score=result.score,
        answer=result.answer,
        reply=last.text,
        explanation=result.explanation,
        turns=result.turns,
        prompt_tokens=last.prompt_tokens,
        tokens=tuple(token for reply in replies for token in reply.tokens),
        finish=str(last.finish),
        replies=tuple(reply.text for reply in replies),
        metrics=dict(result.metrics),
        seconds=time.perf_counter() - start,
    )
    return episode, chat.computed


async def score_reference(
    case: Case, turns: Conversation, engine: Engine
) -> tuple[ReferenceScore, int]:
    """Computes the log-probability of a problem's reference answer.

    Args:
      case: the individual and the problem.
      turns: the conversation of the individual.
      engine: computes log-probabilities.

    Returns:
      The score, and the tokens that went through the model for it.

    Raises:
      RunError: a logit is not finite.
    """
    where = dict(
        individual=case.individual,
        split=str(case.split),
        task=case.task.name,
        problem=case.problem.id,
    )
    dialogue = reference(case.task, case.problem)
    if dialogue is None:
        return ReferenceScore(**where, logprob=None, tokens=0), 0
    tokenizer = engine.tokenizer
    logprob, tokens, computed = 0.0, 0, 0
    for example in examples_of(dialogue, tokenizer, turn_end(tokenizer)):
        start = example.learnt[0]
        with _naming(case):
            got = await engine.score(example.tokens, start, conversation=turns)
        logprob += sum(got.logprobs[i - start] for i in example.learnt)
        tokens += len(example.learnt)
        # The last token is only a target.
        computed += len(example.tokens) - 1 - got.reused_tokens
    return ReferenceScore(**where, logprob=logprob, tokens=tokens), computed


@contextlib.contextmanager
def _naming(case: Case) -> Iterator[None]:
    """Says whose logits are not finite."""
    try:
        yield
    except NotFiniteError as err:
        raise RunError(f"{case.individual} on {case.problem.id}: {err}.") from err
