"""Judges an answer by the benchmark's own scripts, which the episode cannot change.

The scripts run unchanged, but two things that an episode controls are restricted. A
script that reads `~/.bashrc` reads it in another shell and gets only PATH from there;
it still finds its own tools. And where a script uses the output of a command that the
model had to write, that output must be a number.
"""

import re

from cycleqd_jax.sandbox.session_connection import Judging, Session
from cycleqd_jax.tasks.os_interaction.problems import OsProblem, Script

_LONGEST = 2**17 - 1  # bytes of one argument that the kernel takes
_SOURCE = re.compile(r"\bsource ~/\.bashrc\b")
_TOOLS = "awk cat cut find grep head sed sort tr uniq wc".split()
# Reads the file in another shell; an `exit` in it is a failure.
_SOURCE_FUNCTION = """() {
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
_NUMBER_FUNCTION = """() {
    local said
    said=$(command NAME "$@")
    [[ $said =~ ^[[:space:]]*PATTERN[[:space:]]*$ ]] || return 1
    builtin printf '%s\\n' "$said"
}"""
_NUMBERS = {"calc": "[-+]?[0-9.]+([eE][-+]?[0-9]+)?", "count": "[0-9]+"}


async def judge(
    session: Session, problem: OsProblem, answer: str | None, limit_s: float
) -> tuple[bool, str]:
    """The verdict on an answer. The session cannot be used afterwards.

    Args:
      session: the episode's.
      problem: the episode's.
      answer: None if the episode finished without one.
      limit_s: seconds of each script.

    Returns:
      Whether the answer is right, and if not, why not, in one line.

    Raises:
      SandboxError: it cannot be judged, which says nothing about the answer.
    """
    if problem.match is not None:
        if answer is None:
            return False, "It finished without an answer."
        given = answer.strip() if problem.strip else answer
        right = given == problem.match
        return right, "" if right else f"It answered {given!r:.100}."
    scripts = [script or problem.example for script in problem.check]
    # The example may count processes, so those of the episode are stopped, not ended.
    freeze = problem.check[0] is None and scripts[0].language == "bash"
    destroyed = await session.judge(freeze=freeze)
    if destroyed:
        return False, f"It destroyed the system it was to answer about: {destroyed}."
    parameters = [str(answer).encode("utf-8", "replace")]
    for given, script in zip(problem.check, scripts, strict=True):
        if any(b"\0" in p or len(p) > _LONGEST for p in parameters):
            return False, "No program takes it as an argument: too long, or a NUL byte."
        run = await session.script(
            script.language,
            script.code,
            parameters,
            limit_s=limit_s,
            judging=Judging(
                check=given is not None,
                variables=bound(script, checks=given is not None),
            ),
        )
        if run.ended != "done":
            return False, f"The check was stopped at its limit ({run.ended})."
        if run.status != 0:
            return False, f"The check ended with status {run.status}."
        parameters.append(run.output)
    return True, ""


def bound(script: Script, *, checks: bool) -> dict[str, str]:
    """Environment variables that define the restricting functions for a script.

    Args:
      script: a script of the benchmark.
      checks: True for a check, False for the example.
    """
    if script.language != "bash":
        return {}
    functions = {}
    if _SOURCE.search(script.code):
        functions["source"] = _SOURCE_FUNCTION
        for tool in _TOOLS:
            if re.search(rf"\b{tool}\b", script.code):
                functions[tool] = f'() {{ /usr/bin/{tool} "$@"; }}'
    for name, pattern in _NUMBERS.items():
        if checks and re.search(rf"[`(]{name} ", script.code):
            text = _NUMBER_FUNCTION.replace("NAME", name).replace("PATTERN", pattern)
            functions[name] = text
    return {f"BASH_FUNC_{name}%%": text for name, text in functions.items()}
