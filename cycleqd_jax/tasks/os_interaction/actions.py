"""What a reply asks for, and what it is told: the protocol of OS interaction.

Source: AgentBench's OS task as SakanaAI/CycleQD runs it.
"""

import dataclasses
import re

_ACT = re.compile(r"Act:\s*(.+)")
_THINK = re.compile(r"Think:\s*(.+)")
_BLOCK = re.compile(r"```bash\n(.*?)\n```", re.DOTALL)
# Sequences that start with an escape character: control sequences, operating system
# commands (window titles) and single ones.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|"
    r"[PX^_][^\x1b]*\x1b\\|[ -/]*[0-~])"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
LONGEST = 800  # characters that are shown whole
_SHOWN = 780  # of those that are not
_CUT = "\n[truncated because the output is too long]"
_EMPTY = "The output of the OS is empty."


@dataclasses.dataclass(frozen=True)
class Action:
    """What a reply asks for.

    Attributes:
      kind: "bash", "commit", or None where there is none.
      content: commands; the answer, None for one that only says it is finished.
      thought: what it says it thinks.
    """

    kind: str | None
    content: str | None
    thought: str = ""


def extract_action(reply: str) -> Action:
    """Reads a reply: the last `Act:` that fits decides."""
    thought = "\n".join(_THINK.findall(reply))
    for act in reversed(_ACT.findall(reply)):
        word = act.lower()
        if word.startswith("bash"):
            return Action("bash", "\n\n".join(_BLOCK.findall(reply)), thought)
        if word.startswith("finish"):
            return Action("commit", None, thought)
        if word.startswith("answer"):
            rest = act[len("answer") :]
            left, right = rest.find("("), rest.rfind(")")
            if left >= 0 and right >= 0:
                return Action("commit", rest[left + 1 : right], thought)
    return Action(None, None, thought)


def clean(text: str) -> str:
    """Takes away what is meant for a terminal: escape sequences, control characters."""
    text = _ESCAPES.sub("", text).replace("\r\n", "\n")
    return _CONTROLS.sub("", text)


def feedback(output: bytes, *, raw: bool = False) -> str:
    """The user message that follows a command.

    Args:
      output: what it printed; its end may be missing, and then a character may be cut.
      raw: True to show it as it is.
    """
    text = output.decode("utf-8", "ignore")
    if not raw:
        text = clean(text)
    if len(text) > LONGEST:
        text = text[:_SHOWN] + _CUT
    return f"The output of the OS:\n\n{text}" if text else _EMPTY
