"""Code that scripts which judge begin with, so that bash takes texts for texts."""

import re

_TOOLS = "awk cat cut find grep head sed sort tr uniq wc".split()
_TEST = re.compile(r"(?:\[|\btest)\s(.*?)(?:\s\]|$)", re.MULTILINE)
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
# Bash executes what is in a subscript of a text that it calculates with. It is known
# before only where the text is that of a variable.
_ARITHMETIC = re.compile(r"\(\((.*?)\)\)", re.DOTALL)
_COMPARISON = re.compile(r"\[\[ (.*?) \]\]", re.DOTALL)
_COMPARES = r"-(?:eq|ne|lt|le|gt|ge)"
_COMPARED = re.compile(rf"(\S+)\s+{_COMPARES}\s+(\S+)")
_VARIABLE = re.compile(r"(?<!\$\{#)\b[A-Za-z_]\w*")  # but for the length of one
_SIZE = r"\$\(du -s[^$`\n]* \| cut -f1\) / [0-9]+\)\)"  # never is another text
_TEXT = r"(?:\$\(|`|\$\{?[0-9@*])"  # of a command, or an argument
_INSIDE = r"(?:(?!\]\])[^\n])*?"
_CALCULATIONS = (
    r"\blet\b",
    r"\b(?:declare|typeset|local|readonly|export)\s+-\w*i",
    r"(?:\[\[?|\btest)\s(?:!\s)?-v\s",
    r"\$\{[!#]?\w+\[(?![0-9@*]+\])",
    r"\$\{\w+:\s*[^-=?+\s0-9]",
    r"\(\((?!"
    + _SIZE
    + r")(?:(?!\)\))[^\n])*?(?:\$\((?!\()|`|\w\[(?![@*]\])|\$\{?[0-9@*])",
    rf"\[\[{_INSIDE}{_TEXT}{_INSIDE}{_COMPARES}\b",
    rf"\[\[{_INSIDE}{_COMPARES}\s+\S*{_TEXT}",
    r"\w=[\"']?(?:\$\((?!\()|`)[^\n;&]*\s\w+=[\"']?\$\(\(",  # it is still the old one
)
_CALCULATING = re.compile("|".join(_CALCULATIONS))
# The whole script ends, also where a part of it has a shell of its own.
_STOP = "builtin kill -9 $$"
_OPERATORS = ("!", "-a", "-o", "-v", "-R", r"\(", r"\)")


def begin(code: str) -> str:
    """Code to put before a bash script; it ends the script before a text is obeyed."""
    return _tests(code) + _numbers(code)


def fixed_tools(code: str) -> dict[str, str]:
    """Functions that find the tools of a script, whatever PATH is."""
    return {
        tool: f'() {{ /usr/bin/{tool} "$@"; }}'
        for tool in _TOOLS
        if re.search(rf"\b{tool}\b", code)
    }


def calculated(code: str) -> tuple[str, ...]:
    """The variables in a script that bash calculates with."""
    parts = _ARITHMETIC.findall(code)
    for test in _COMPARISON.findall(code):
        parts += [side for pair in _COMPARED.findall(test) for side in pair]
    return tuple(sorted({name for text in parts for name in _VARIABLE.findall(text)}))


def calculation(code: str) -> str | None:
    """A calculation with what no variable holds before, where a script has one.

    Args:
      code: without comments and what is in single quotes.
    """
    found = _CALCULATING.search(code)
    return found and found[0]


def _numbers(code: str) -> str:
    """Code that ends a script before a command that would calculate with a text.

    Bash would execute what is in a subscript there: `x[$(command)]`, or in a variable
    that the text names. The name of none is 0.
    """
    values = " ".join(f'"${{{name}-}}"' for name in calculated(code))
    if not values:
        return ""
    return (
        f"set -o functrace; trap 'for _text in {values}; do "
        "[[ $_text != *[!0-9.+[:space:]-]* ]] || "
        f"[[ $_text != *[!0-9A-Za-z_]* && ! -v $_text ]] || {_STOP}; done' DEBUG\n"
    )


def stub(name: str, asked_fd: int, said_fd: int) -> str:
    """Definition of a function that asks for a program to be run elsewhere.

    It writes the number of words, then each of them, all with a NUL byte behind, and
    reads the status, a line feed, what was printed and a NUL byte.
    """
    return (
        "() { local IFS= said; "
        f'printf \'%s\\0\' "$(($# + 1))" {name} "$@" >&{asked_fd}; '
        f"read -r -d '' said <&{said_fd} || return 1; "
        "printf '%s' \"${said#*$'\\n'}\"; return \"${said%%$'\\n'*}\"; }"
    )


def _tests(code: str) -> str:
    """Functions that end a script where a text would add operators to its tests.

    Only where it tests something without quotes, which bash splits into words: with
    `[ $(cat x) = 3 ]` the text `! 4` would be right, and `-v a[$(command)]` executed.
    """
    parts = _TEST.findall(code)
    if not any(re.search(r"[$`]", _QUOTED.sub("", part)) for part in parts):
        return ""
    said = {word for part in parts for word in part.split()}
    odd = "|".join(word for word in _OPERATORS if word not in said)
    look = f"local w; for w; do case $w in {odd}) {_STOP};; esac; done;" if odd else ""
    return "".join(
        f'{name}() {{ {look} builtin {name} "$@"; }}\n' for name in ("[", "test")
    )
