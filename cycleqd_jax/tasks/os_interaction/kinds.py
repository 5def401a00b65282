"""The needs of a script that judges an episode, read from its text.

A script of bash looks at what the episode left; it may need more than the files, and
what that is (`sandbox.base.Look`) follows from the commands that it has. A script of
Python compares its arguments, and sees nothing else. A problem with a script that could
only be judged with programs that obey what an episode wrote is refused.
"""

import re

from cycleqd_jax.sandbox.base import Look
from cycleqd_jax.sandbox.guards import calculation
from cycleqd_jax.tasks.os_interaction.problems import OsProblem, Script

_BASHRC = re.compile(r"\bsource ~/\.bashrc\b")
_PROCESSES = re.compile(r"\b(ps|pgrep)\b")
_EXECUTABLE = re.compile(r"-executable\b|\bcommand -v\b|\bwhich\b|\[ -x ")
_CHANGED = re.compile(r"\b(?:ls -l|stat)\s+(/usr/s?bin/[\w.-]+)")
_SUDO = re.compile(r"\bsudo whoami\b")
_LOGIN = re.compile(r"runuser -l [a-z0-9_-]+ -c 'cat /[^\s']+'")
# Programs that the model was asked to write, and what they print. A number is pasted
# into a program by the check, so it must be one.
_PROGRAMS = {
    "calc": r"[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?",
    "count": r"[0-9]+",
    "date-format": r"[\s\S]*",
    "echo-love": r"[\s\S]*",
}
# They obey files that an episode could have written.
_OBEYING = (
    r"(?:[a-z]*/)*(?:python[0-9.]*|perl|ruby|node|php|lua|tclsh|guile|su|sudo|doas|ssh|"
    r"login|runuser|git|hg|vim?|nano|emacs|less|more|man|make|cmake|gcc|cc|gdb|crontab|"
    r"systemctl|service|apt|apt-get|dpkg|pip[0-9]*|npm|bash|sh|dash|zsh|ksh|csh|fish|"
    r"exec|eval|source|\.)"
)
_BEFORE = (
    r"(?:^|[|;&({`!]|\b(?:do|then|else|if|while|until|time|env|nohup|nice|command|"
    r"builtin|timeout[ \t]+\S+|setsid|xargs(?:[ \t]+-\S+)*)[ \t]|-(?:exec|ok)(?:dir)?"
    r"[ \t])[ \t]*(?:\w+=[^\s`$()]*[ \t]+)*"
)
_OBEYED = re.compile(r"\b(\w?awk|sed)\b[^|;\n]*\s(?:-f|--(?:from-)?file)\b")
_COMMAND = re.compile(_BEFORE + rf"({_OBEYING})(?=[\s;|&)`]|$)", re.MULTILINE)
_ASIDE = re.compile(r"'[^']*'|^\s*#.*$", re.MULTILINE)
_NO_COMPARISON = re.compile(
    r"\b((?:open|eval|exec|__import__)\s*\(|(?:import|from)\s+(?:os|subprocess|pathlib|"
    r"glob|shutil|socket|pwd|grp|psutil|urllib|requests|pickle|importlib|ctypes)\b)"
)


def look_of(script: Script, *, checks: bool) -> Look:
    """The needs of a bash script.

    Args:
      script: of the benchmark.
      checks: True for a check, False for the example.
    """
    code = script.code
    programs = {
        name: pattern
        for name, pattern in _PROGRAMS.items()
        if checks and re.search(rf"[`(]{name}(?=[ )`])", code)
    }
    return Look(
        tree=not (programs and _commands(code)),
        executable=bool(_EXECUTABLE.search(code)),
        bashrc=bool(_BASHRC.search(code)),
        programs=programs,
        logins=bool(_LOGIN.search(code)),
        changed=tuple(_CHANGED.findall(code)),
        sudo=bool(_SUDO.search(code)),
    )


def counts_processes(problem: OsProblem) -> bool:
    """True if one of its scripts looks at running processes."""
    return any(
        script.language == "bash" and _PROCESSES.search(_plain(script.code))
        for script in problem.scripts
    )


def needs_sudo(problem: OsProblem) -> bool:
    """True if one of its scripts says `sudo whoami`, which an image judges."""
    return any(_SUDO.search(script.code) for script in problem.scripts)


def why_refused(problem: OsProblem) -> str | None:
    """Why a problem cannot be judged so that an episode has no say in it; or None."""
    for given, script in zip(problem.check, problem.scripts, strict=True):
        what = "a check" if given is not None else "the example script"
        if script.language != "bash":
            if given is None:
                return f"{what} is {script.language}; expected bash"
            if found := _NO_COMPARISON.search(script.code):
                return (
                    f"{what} in Python says {found[1]}, but can only compare its "
                    "arguments: the answer, and what the scripts before it printed"
                )
            continue
        if found := calculation(_plain(script.code)):
            return (
                f"{what} calculates by {found!r}, and bash would execute a text of "
                "the episode there"
            )
        look = look_of(script, checks=given is not None)
        if look.bashrc and look.executable:
            return f"{what} asks what is executable in the PATH of ~/.bashrc"
        for command in _commands(script.code):
            if look.tree or not re.fullmatch(r"python[0-9.]*", command):
                return (
                    f"{what} runs {command}, which obeys files that the episode could "
                    "have written"
                )
    return None


def _plain(code: str) -> str:
    """The code without comments and what is in single quotes."""
    return _ASIDE.sub("''", code)


def _commands(code: str) -> list[str]:
    """The commands in it that obey files."""
    code = _LOGIN.sub("true", code)
    code = _BASHRC.sub("true", _SUDO.sub("true", code))
    return _COMMAND.findall(_plain(code)) + _OBEYED.findall(_plain(code))
