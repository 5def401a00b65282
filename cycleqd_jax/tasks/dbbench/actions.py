r"""Parses replies by the grammar of the reference.

Searches are plain text searches that find what its regular expressions do, in time
proportional to the text, whatever a model writes:

    Action: (.*?)\n         the first; only "Operation" means anything
    ```sql\n(...)\n```      the first block
    \nFinal Answer:(.*)     the first; up to the end of its line

Source: SakanaAI/CycleQD:evaluation/fishfarm/fishfarm/tasks/dbbench.py.
"""

import dataclasses

_LONGEST = 800  # characters of a feedback
_ACTION, _BLOCK, _ANSWER = "Action: ", "```sql\n", "\nFinal Answer:"


@dataclasses.dataclass(frozen=True)
class Action:
    r"""The action that a reply asks for.

    Attributes:
      operates: whether its first action is an operation.
      statement: the SQL to run, in one line; None if it holds none.
      answer: what follows `Final Answer:`, the leading space included; None if it has
        no answer.
    """

    operates: bool
    statement: str | None
    answer: str | None


def parse_reply(reply: str) -> Action:
    """The first action, the first block of SQL and the first answer of a reply."""
    operates = _between(reply, _ACTION, "\n") == "Operation"
    statement = None
    if operates and (block := _between(reply, _BLOCK, "\n```")) is not None:
        statement = block.strip().replace("\n", " ")
    answer = None
    if _ANSWER in reply:
        answer = reply.partition(_ANSWER)[2].partition("\n")[0]
    return Action(operates, statement, answer)


def shorten(feedback: str) -> str:
    """The part of a feedback that the model is shown."""
    if len(feedback) <= _LONGEST:
        return feedback
    return feedback[:_LONGEST] + "[TRUNCATED]"


def _between(text: str, start: str, end: str) -> str | None:
    """The text between the first `start` and the next `end`; None without both."""
    _, found, rest = text.partition(start)
    inside, closed, _ = rest.partition(end)
    return inside if found and closed else None
