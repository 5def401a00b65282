"""Judges an answer by the benchmark's own scripts, which the episode cannot change.

What an episode left is data: nothing that it could write is executed or obeyed, and no
process of it runs any more. Scripts that compare run as programs that see nothing of
the episode; scripts that look at it get no more than `kinds` says.
"""

from cycleqd_jax.sandbox.base import Ending, Program, Sandbox, ScriptRun, Shell
from cycleqd_jax.tasks.os_interaction.kinds import counts_processes, look_of
from cycleqd_jax.tasks.os_interaction.problems import OsProblem, Script

_LONGEST = 2**17 - 1  # bytes of one argument that the kernel takes


async def judge(
    shell: Shell,
    sandbox: Sandbox,
    problem: OsProblem,
    answer: str | None,
    limit_s: float,
) -> tuple[bool, str]:
    """The verdict on an answer. The shell cannot be used afterwards.

    Args:
      shell: the episode's.
      sandbox: runs programs that compare.
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
    await shell.end(keep_processes=counts_processes(problem))
    parameters = [str(answer).encode("utf-8", "replace")]
    for given, script in zip(problem.check, problem.scripts, strict=True):
        if any(b"\0" in p or len(p) > _LONGEST for p in parameters):
            return False, "No program takes it as an argument: too long, or a NUL byte."
        if script.language == "python":
            run = await compare(sandbox, script, parameters)
        else:
            how = look_of(script, checks=given is not None)
            run = await shell.look(script.code, parameters, limit_s=limit_s, how=how)
        if run.ended != "done":
            return False, f"The check was stopped at its limit ({run.ended})."
        if run.status != 0:
            return False, f"The check ended with status {run.status}."
        parameters.append(run.output)
    return True, ""


async def compare(
    sandbox: Sandbox, script: Script, parameters: list[bytes]
) -> ScriptRun:
    """Runs a script of Python on texts alone."""
    words = [p.decode("utf-8", "surrogateescape") for p in parameters]
    argv = ("python3", "-I", "-c", script.code, *words)
    done = await sandbox.run(Program(argv))
    if done.ending is not Ending.EXITED:
        return ScriptRun(1, str(done.ending), b"")
    return ScriptRun(done.exit_code, "done", done.stdout + done.stderr)
