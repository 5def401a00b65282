"""The sanitiser of the published experiments: rules on lines and texts.

Its rules are those of EvalPlus's `tools/sanitize.py` of November 2023. They throw away
many right answers (functions of one line, or indented by two spaces), which is why
they are only used for comparison with published numbers.
"""

import ast
import re
import warnings

_KEPT = ("def ", "import ", "from ")  # unindented lines that may follow
_ENDS = ('"""', "if", "print")  # with one of these the answer is over


def legacy_sanitize(code: str, entry_point: str) -> str:
    """What is left of `code`.

    Args:
      code: prompt and completion.
      entry_point: the function that is asked for.
    """
    definition = f"def {entry_point}"
    code = _fenced_part("\n" + code, definition)
    head, *bodies = re.split(rf"{definition}\s*\(", code)
    bodies = [b for b in bodies if "    return " in b.partition("\ndef")[0]]
    tail = "".join(f"{definition}({body}" for body in bodies)
    tail = _without_outer_lines(_four_spaces(tail), f"{definition}(")
    first, *functions = (head + tail).split("\ndef ")
    starts = (f"{entry_point} ", f"{entry_point}(")
    kept = [f for f in functions if f.strip().startswith(starts) or _parses(f)]
    return "\ndef ".join([first, *kept]).strip()


def _fenced_part(code: str, definition: str) -> str:
    """The first part between fences that has the definition, or all of it."""
    code = code.replace("\n```python\n", "\n```\n")
    return next((p for p in code.split("\n```\n") if definition in p), code)


def _four_spaces(code: str) -> str:
    """Gives lines that are indented by three columns of white space one more."""
    lines = code.splitlines()
    return "".join(
        f" {line}\n" if len(line) - len(line.lstrip()) == 3 else f"{line}\n"
        for line in lines
    )


def _without_outer_lines(code: str, start: str) -> str:
    """Drops what is not indented after the line that starts with `start`.

    Also before that line, where none of it is the answer. Everything is dropped from
    the first line on that ends the answer.
    """
    kept, begun = [], False
    for line in code.splitlines():
        if not begun and line.startswith(start):
            begun = True
        elif line.strip() and not line.startswith(_KEPT):
            if line.rstrip().startswith(_ENDS):
                break
            if not line[0].isspace():
                continue
        kept.append(line)
    return "\n".join(kept)


def _parses(function: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape is no error
            ast.parse("\ndef " + function)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True
