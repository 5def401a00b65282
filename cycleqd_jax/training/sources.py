"""Where examples come from: tasks and files of dialogues."""

import dataclasses
from collections.abc import Sequence

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.dialogues import Example, examples_of, turn_end
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.tasks.base import Split, Task
from cycleqd_jax.training.jsonl import Dialogue


@dataclasses.dataclass(frozen=True)
class Source:
    """The examples of one source.

    Attributes:
      name: of the task or file, as in the config.
      dialogues: how many there were.
      examples: what is learnt of them.
      dropped: how many were left out because they are too long.
    """

    name: str
    dialogues: int
    examples: tuple[Example, ...]
    dropped: int


def task_dialogues(task: Task) -> list[Dialogue]:
    """A right conversation for every problem of a task's `train` split."""
    return [
        Dialogue(tuple(task.dialogue(problem)), problem.id)
        for problem in task.problems(Split.TRAIN)
    ]


def make_source(
    name: str,
    dialogues: Sequence[Dialogue],
    tokenizer: ChatTokenizer,
    *,
    max_length: int,
    drop: bool,
) -> Source:
    """Tokenises the dialogues of a source.

    Args:
      name: of the source.
      dialogues: checked messages.
      tokenizer: of the model.
      max_length: tokens an example may have.
      drop: whether dialogues that are longer are left out; else they are an error.

    Raises:
      BadInputError: the chat template refuses a dialogue, one is too long, or none is
        left.
    """
    examples: list[Example] = []
    end = turn_end(tokenizer)
    too_long: list[tuple[int, str]] = []
    for dialogue in dialogues:
        try:
            found = examples_of(dialogue.messages, tokenizer, end)
        except BadInputError as err:
            raise BadInputError(f"{dialogue.where}: {err}") from err
        longest = max((len(e.tokens) for e in found), default=0)
        if longest > max_length:
            too_long.append((longest, dialogue.where))
        else:
            examples.extend(found)
    if too_long and not (drop and examples):
        longest, where = max(too_long)
        more = f" and {len(too_long) - 1} more are too long" if too_long[1:] else ""
        advice = "" if drop else ", or leave such dialogues out with too_long=drop"
        raise BadInputError(
            f"optimiser.max_length is {max_length} tokens, but {where} has {longest}"
            f"{more}; set it to {longest} or more{advice}."
        )
    if not examples:
        raise BadInputError(
            f"{name}: has no dialogue with an assistant's message to train on; set "
            "problems.train above 0, or leave it out."
        )
    return Source(name, len(dialogues), tuple(examples), len(too_long))
