"""Whether the engine has room for the problems, asked before anything runs."""

from collections.abc import Iterable, Sequence

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.tasks.base import Split, Task


def check_prompts(
    tasks: Sequence[Task],
    splits: Iterable[Split],
    tokenizer: ChatTokenizer,
    *,
    length: int,
    multiple_of: int,
) -> None:
    """Refuses problems that the engine has no room for, before anything runs.

    Args:
      tasks: their right dialogues are measured, with the longest last reply.
      splits: whose problems.
      tokenizer: of the model.
      length: the engine's, in tokens.
      multiple_of: what the length must be a multiple of.

    Raises:
      BadInputError: names the longest and the length that it needs.
    """
    need, problem = longest_need(tasks, splits, tokenizer)
    if need > length:
        enough = -(-need // multiple_of) * multiple_of
        raise BadInputError(
            f"engine.length is {length} tokens, but {problem} needs {need} with its "
            f"reply; set it to {enough} or more."
        )


def longest_need(
    tasks: Sequence[Task], splits: Iterable[Split], tokenizer: ChatTokenizer
) -> tuple[int, str]:
    """The most tokens that a problem takes: its right dialogue, the longest last reply.

    Args:
      tasks: as for `check_prompts`.
      splits: likewise.
      tokenizer: likewise.

    Returns:
      Tokens, and the problem's id; (0, "") without problems.
    """
    needs = [
        (len(tokenizer.encode_chat(list(task.dialogue(p))[:-1])) + task.max_new_tokens,
         p.id)
        for split in splits
        for task in tasks
        for p in task.problems(split)
    ]  # fmt: skip
    return max(needs, default=(0, ""))
