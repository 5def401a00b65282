"""The settings of tasks of lm-evaluation-harness."""

from typing import Annotated

from pydantic import Field

from cycleqd_jax.files import Count, PathText, Section, Seed, Text


class PromptSettings(Section):
    """The form of prompts.

    Attributes:
      num_fewshot: examples in front of each problem; None takes the task's own number.
        A task that fixes 0 keeps it.
      apply_chat_template: whether prompts are chats, or else plain text.
      system_instruction: the system's message, or the first line of plain text.
      fewshot_as_multiturn: whether examples are turns of the chat.
      seed: of the choice of examples, and of replies that are drawn.
    """

    num_fewshot: Count | None = None
    apply_chat_template: bool = False
    system_instruction: Text | None = None
    fewshot_as_multiturn: bool = True
    seed: Seed = 1234


class HarnessOptions(PromptSettings):
    """`task_settings` of a task `lm_eval:TASK` in a search, whose prompts are chats.

    Attributes:
      metric: what is optimised, like "exact_match", or "exact_match[FILTER]" where the
        task has several filters; None takes the first that is better if higher.
      include: folders with task files of your own.
    """

    apply_chat_template: bool = True
    metric: Text | None = None
    include: Annotated[tuple[PathText, ...], Field(strict=False)] = ()
