"""The protocol of OS interaction: actions in replies, and the messages that follow.

Source: AgentBench's OS task as SakanaAI/CycleQD runs it.
"""

import dataclasses
import re
from collections.abc import Iterator

_ACT = re.compile(r"Act:\s*(.+)")
_THINK = re.compile(r"Think:\s*(.+)")
_BLOCK, _BLOCK_END = "```bash\n", "\n```"
# Terminal sequences that start with an escape character: control sequences, operating
# system commands (window titles), single characters.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|"
    r"[PX^_][^\x1b]*\x1b\\|[ -/]*[0-~])"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
LONGEST = 800  # characters of an output that is shown whole
_SHOWN = 780  # characters of one that is cut
_CUT = "\n[truncated because the output is too long]"
_EMPTY = "The output of the OS is empty."


@dataclasses.dataclass(frozen=True)
class Action:
    """The action that a reply asks for.

    Attributes:
      kind: "bash", "commit", or None if the reply has no action.
      content: the commands, or the answer; None if it finishes without an answer.
      thought: the text after "Think:".
    """

    kind: str | None
    content: str | None
    thought: str = ""


def extract_action(reply: str) -> Action:
    """The action of a reply: that of its last valid `Act:`."""
    thought = "\n".join(_THINK.findall(reply))
    for act in reversed(_ACT.findall(reply)):
        word = act.lower()
        if word.startswith("bash"):
            return Action("bash", "\n\n".join(_blocks(reply)), thought)
        if word.startswith("finish"):
            return Action("commit", None, thought)
        if word.startswith("answer"):
            rest = act[len("answer") :]
            left, right = rest.find("("), rest.rfind(")")
            if left >= 0 and right >= 0:
                return Action("commit", rest[left + 1 : right], thought)
    return Action(None, None, thought)


def _blocks(reply: str) -> Iterator[str]:
    """The commands between the signs for them, in time proportional to the reply."""
    place = 0
    while (start := reply.find(_BLOCK, place)) >= 0:
        start += len(_BLOCK)
        end = reply.find(_BLOCK_END, start)
        if end < 0:
            return
        yield reply[start:end]
        place = end + len(_BLOCK_END)


def clean(text: str) -> str:
    """Text without what is meant for a terminal: escape and control characters."""
    text = _ESCAPES.sub("", text).replace("\r\n", "\n")
    return _CONTROLS.sub("", text)


def feedback(output: bytes, *, raw: bool = False) -> str:
    """The user message that follows a command.

    Args:
      output: what the command printed; may be cut in the middle of a character.
      raw: True to keep escape and control characters.
    """
    text = output.decode("utf-8", "ignore")
    if not raw:
        text = clean(text)
    if len(text) > LONGEST:
        text = text[:_SHOWN] + _CUT
    return f"The output of the OS:\n\n{text}" if text else _EMPTY
