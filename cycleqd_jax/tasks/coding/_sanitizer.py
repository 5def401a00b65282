"""The process in which sanitisers run, one for a task.

Sanitisers parse what a model wrote, again and again. A process of its own can be
stopped when that does not end, may crash, and keeps what EvalPlus imports out of ours.
Requests and replies are JSON, one per line.
"""

import ast
import bisect
import json
import signal
import sys
import warnings
from collections.abc import Callable

_CPU_S = 10.0  # of one text


class _TooLongError(BaseException):
    """The text takes too much time; not an `Exception`, nobody else may catch it."""


def longest_parsable(code: str) -> str:
    """The stretch of at least two lines that parses and has the most text lines.

    The same as EvalPlus's `code_extract`, which tries all stretches, whose number grows
    with the square of the lines; here longer ones are tried first. Of several the first
    is taken; if there is none, the first line.
    """
    lines = code.split("\n")
    said = [0]
    for line in lines:
        said.append(said[-1] + bool(line.strip()))
    for count in range(said[-1], 0, -1):
        for first in range(len(lines) - 1):
            wanted = said[first] + count
            # The ends after which so many lines have said something.
            low = bisect.bisect_left(said, wanted, first + 2)
            for end in range(low, bisect.bisect_right(said, wanted, low)):
                stretch = "\n".join(lines[first:end])
                if _parses(stretch):
                    return stretch
    return lines[0]


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, MemoryError, ValueError, RecursionError):
        return False
    return True


def _evalplus() -> Callable[[str, str], str]:
    """EvalPlus's sanitiser, with the quicker search."""
    from evalplus import sanitize

    if not hasattr(sanitize, "code_extract"):
        raise ImportError("evalplus.sanitize has no code_extract")
    sanitize.code_extract = longest_parsable
    return sanitize.sanitize


def _legacy() -> Callable[[str, str], str]:
    from cycleqd_jax.tasks.coding.legacy import legacy_sanitize

    return legacy_sanitize


def _stop(*_: object) -> None:
    raise _TooLongError


def main(kind: str) -> None:
    """Serves requests until there are no more.

    Args:
      kind: "evalplus" or "reference".
    """
    replies, sys.stdout = sys.stdout, sys.stderr  # whoever prints
    warnings.simplefilter("ignore")
    try:
        sanitize = {"evalplus": _evalplus, "reference": _legacy}[kind]()
    except ImportError as err:
        replies.write(json.dumps({"missing": str(err)}) + "\n")
        replies.flush()
        return
    signal.signal(signal.SIGVTALRM, _stop)
    replies.write(json.dumps({"ready": True}) + "\n")
    replies.flush()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, _CPU_S)
            try:
                reply = {"code": sanitize(request["code"], request["entry_point"])}
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        except _TooLongError:
            reply = {"failed": "it takes too long"}
        except Exception as err:  # noqa: BLE001 - whatever a text does to a parser
            reply = {"failed": f"{type(err).__name__}: {err}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
