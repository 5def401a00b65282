"""The process in which EvalPlus's sanitisers run, one for each task.

They parse what a model wrote, many times. A process of its own can be stopped if that
takes too long, and may crash. Requests and replies are JSON, one per line.

The sanitiser of the published experiments is EvalPlus's legacy one, of November 2023.
Its rules on lines throw away many right answers (functions of one line, or indented by
two spaces), so it is only for comparison with published numbers.
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
    """The text takes too long. No `Exception`, so that only `main` catches it."""


def longest_parsable(code: str) -> str:
    """The stretch of at least two lines that parses and has the most non-empty lines.

    The result of EvalPlus's `code_extract`, which parses every stretch, so many as the
    square of the lines. This tries long stretches first. The first of several equal
    ones counts; if none parses, the result is the first line.
    """
    lines = code.split("\n")
    filled = [0]
    for line in lines:
        filled.append(filled[-1] + bool(line.strip()))
    for count in range(filled[-1], 0, -1):
        for first in range(len(lines) - 1):
            wanted = filled[first] + count
            # The ends at which so many lines are not empty.
            low = bisect.bisect_left(filled, wanted, first + 2)
            for end in range(low, bisect.bisect_right(filled, wanted, low)):
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


def _sanitizer(kind: str) -> Callable[[str, str], str]:
    """EvalPlus's function: of a text and the function that is asked for, the code."""
    if kind == "reference":
        from evalplus.lecacy_sanitize import sanitize

        return sanitize
    from evalplus import sanitize

    sanitize.code_extract = longest_parsable
    if kind != "bigcodebench":
        return sanitize.sanitize
    # BigCodeBench's copy of it keeps functions that return nothing, and drops the lines
    # at the end that use the function.
    sanitize.has_return_statement = lambda _: True

    def sanitize_and_cut(text: str, entry_point: str) -> str:
        target = sanitize.extract_target_code_or_empty(text.strip(), entry_point)
        code = without_uses(target, entry_point).strip()
        return code or longest_parsable(text)

    return sanitize_and_cut


def without_uses(code: str, name: str) -> str:
    """Code up to the first line with a name, of the lines at its end not indented."""
    lines = code.splitlines()
    first = len(lines)
    for index in range(len(lines) - 1, -1, -1):
        if lines[index].startswith(" "):
            break
        if name in lines[index]:
            first = index
    return "\n".join(lines[:first])


def _stop(*_: object) -> None:
    raise _TooLongError


def main(kind: str) -> None:
    """Answers requests until there are no more.

    Args:
      kind: "evalplus", "reference" or "bigcodebench".
    """
    replies, sys.stdout = sys.stdout, sys.stderr  # nothing else may print there
    warnings.simplefilter("ignore")
    try:
        sanitize = _sanitizer(kind)
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
