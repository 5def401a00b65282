"""The prompts: what the model is asked, and how its reply begins."""

import dataclasses
from typing import Literal

from cycleqd_jax.chat import ChatOptions, Message
from cycleqd_jax.tasks.coding.data import CodingProblem

PromptKind = Literal["chat", "reference"]
# Of SakanaAI/CycleQD (Apache-2.0), `tasks/mbpp.py` and `fishfarm/chat_templates.py`.
REFERENCE_SYSTEM = (
    "You are an exceptionally intelligent coding assistant that consistently delivers "
    "accurate and reliable responses to user instructions."
)
REFERENCE_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'].strip() + '\\n\\n' %}"
    "{% else %}"
    "{% set loop_messages = messages %}{% set system_message = '' %}{% endif %}"
    "{{ system_message }}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate "
    "user/assistant/user/assistant/...')}}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ '@@ Instruction:\\n' + message['content'].strip() + '\\n\\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '@@ Response:\\n' + message['content'].strip() }}{% endif %}"
    "{% if loop.last and message['role'] == 'user' and add_generation_prompt %}"
    "{{ '@@ Response:' }}{% endif %}{% endfor %}"
)
REFERENCE_STOPS = ("Instruction:", "Instruction", "Response:", "Response")
# A fence on a line of its own ends the code; what follows is not used.
CHAT_STOPS = ("\n```",)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The request for one reply.

    Attributes:
      messages: the conversation before the reply.
      beginning: the first text of the reply, given to the model.
      options: of the request.
    """

    messages: tuple[Message, ...]
    beginning: str
    options: ChatOptions


def make_prompt(instruction: str, kind: PromptKind) -> Prompt:
    """The request for a reply to an instruction.

    Args:
      instruction: what the user message says.
      kind: "chat" for the model's own template; the reply begins with a fence and ends
        before the next fence on a line of its own. "reference" for the template,
        system message and stop strings of the published experiments; these also end a
        reply at a name like `Response`.
    """
    user: Message = {"role": "user", "content": instruction}
    if kind == "reference":
        system: Message = {"role": "system", "content": REFERENCE_SYSTEM}
        options = ChatOptions(REFERENCE_TEMPLATE, REFERENCE_STOPS)
        return Prompt((system, user), "```python", options)
    return Prompt((user,), "```python\n", ChatOptions(stop_strings=CHAT_STOPS))


def instruction(dataset: str, problem: CodingProblem) -> str:
    """The text of the user message.

    For MBPP, the demand and one assertion, as in the published experiments; for
    HumanEval, which they did not use, the function to complete.

    Args:
      dataset: "mbpp" or "humaneval".
      problem: of that data set.

    Raises:
      ValueError: MBPP's prompt is not a docstring with a demand and an assertion.
    """
    if dataset == "humaneval":
        return (
            "Write a solution to the following problem:\n"
            f"```python\n{problem.prompt.strip()}\n```"
        )
    parts = problem.prompt.split('"""')
    if len(parts) < 3:
        raise ValueError("the prompt has no docstring")
    text, found, assertion = '"""'.join(parts[1:-1]).partition("assert")
    if not found:
        raise ValueError("the prompt has no assertion")
    text = text.strip()
    full_stop = "" if text.endswith(".") else "."
    return (
        f"{text}{full_stop} Your code should satisfy the following assertion:\n"
        f"```python\n{(found + assertion).strip()}\n```"
    )
