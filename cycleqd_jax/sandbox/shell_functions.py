"""Bash functions that give a script no more of the episode than it asks for."""

import re
from collections.abc import Mapping

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
