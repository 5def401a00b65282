"""Bash functions that give a script no more of the episode than it asks for."""

import re
from collections.abc import Mapping

from cycleqd_jax.sandbox.base import Look

_TOOLS = "awk cat cut find grep head sed sort tr uniq wc".split()


def fixed_tools(code: str) -> dict[str, str]:
    """Name -> definition of functions that find tools whatever PATH is.

    Args:
      code: a script, which changes PATH.
    """
    return {
        tool: f'() {{ /usr/bin/{tool} "$@"; }}'
        for tool in _TOOLS
        if re.search(rf"\b{tool}\b", code)
    }


# Reads the file in another shell; an `exit` in it is a failure.
_SOURCE = """() {
    local said
    said=$(exec 8>&1 </dev/null >/dev/null 2>&1
        unset -f source
        /bin/bash --noprofile --norc -c 'builtin source "$1"
            status=$?; exec >&8
            builtin printf "%s %s" "$status" "$PATH"' bash "$1")
    [[ $said =~ ^([0-9]+)\\ (.*)$ ]] || exit 1
    PATH=${BASH_REMATCH[2]}
    return "${BASH_REMATCH[1]}"
}"""
_PROGRAM = """() {
    local said
    said=$(command NAME "$@")
    [[ $said =~ ^[[:space:]]*(PATTERN)[[:space:]]*$ ]] || return 1
    builtin printf '%s\\n' "$said"
}"""


def functions(how: Look, code: str) -> dict[str, str]:
    """Functions for a script that runs in the episode's own system.

    Args:
      how: what it needs.
      code: its text.

    Returns:
      Environment variables that define them.
    """
    made = {}
    if how.bashrc:
        made = {"source": _SOURCE, **fixed_tools(code)}
    for name, pattern in how.programs.items():
        made[name] = _PROGRAM.replace("NAME", name).replace("PATTERN", pattern)
    return {f"BASH_FUNC_{name}%%": text for name, text in made.items()}


def in_front(made: Mapping[str, str], code: str) -> str:
    """A script with functions (name -> definition) before it."""
    return "".join(f"{name}{text}\n" for name, text in made.items()) + code


def stub(name: str, asked_fd: int, said_fd: int) -> str:
    """Definition of a function that asks for a program to be run elsewhere.

    Args:
      name: of the program.
      asked_fd: gets the number of words, then each of them, all with a NUL byte behind.
      said_fd: says the status, a line feed, what was printed and a NUL byte.
    """
    return (
        "() { local IFS= said; "
        f'printf \'%s\\0\' "$(($# + 1))" {name} "$@" >&{asked_fd}; '
        f"read -r -d '' said <&{said_fd} || return 1; "
        "printf '%s' \"${said#*$'\\n'}\"; return \"${said%%$'\\n'*}\"; }"
    )
