"""No sandbox: programs run with our own rights."""

import contextlib
import dataclasses
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox._collect import FOLDER_FLAGS, collect, write_files
from cycleqd_jax.sandbox.base import Ending, Execution, Program, Shell
from cycleqd_jax.sandbox.check import check_program, refused
from cycleqd_jax.sandbox.gate import Gate
from cycleqd_jax.sandbox.process import kill_group, until_end
from cycleqd_jax.sandbox.world import settings_of

# A write beyond the size of a file fails, and the program can report it.
_LAUNCH = ("env", "--ignore-signal=XFSZ", "prlimit")
_PROCESSES = 2**30  # the kernel would count all of this user's


class UnsafeSandbox:
    """Runs programs with our own rights, without any protection.

    A program can read and change all your files, use the network, signal your processes
    and leave processes running. Use it only for code that you trust, or on a machine
    that holds nothing else. It must be chosen by name ("none").

    These limits are enforced: CPU time (per process while it runs, the total at the
    end), address space, open files, file size, output, wall-clock time. These are not:
    number of processes, their memory together, size and entries of the scratch folder.
    The environment has only PATH of ours; the scratch folder is a temporary one.

    Args:
      workers: programs at once; at least 1.
    """

    def __init__(self, workers: int):
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self._gate = Gate(workers)
        self._running: set[subprocess.Popen] = set()
        self._closed = False

    async def run(self, program: Program) -> Execution:
        """Runs `program` to its end or limit.

        Raises:
          ValueError: see `check_program`.
          SandboxError: the program could not be started, or the sandbox is closed.
        """
        if (execution := refused(program)) is not None:
            return execution
        check_program(program)
        async with self._gate.enter():
            return await self._once(program)

    def shell(self, *given: Any) -> contextlib.AbstractAsyncContextManager[Shell]:
        """Is refused: it would be a root shell of this machine.

        Raises:
          BadInputError: always.
        """
        raise BadInputError(
            "sandbox.kind is none, which has no shells; expected bubblewrap"
        )

    async def close(self) -> None:
        """Stops running programs and refuses more."""
        self._closed = True
        for process in self._running:
            kill_group(process)
        async with self._gate.enter(alone=True):
            pass  # waits until all have ended

    async def _once(self, program: Program) -> Execution:
        if self._closed:
            raise SandboxError("the sandbox is closed; make a new one")
        top = Path(tempfile.mkdtemp(prefix="cycleqd-unsafe-"))
        try:
            (top / "work").mkdir()
            (top / "stdin").write_bytes(program.stdin)
            files = [(os.fsencode(path), data) for path, data in program.files]
            write_files(os.fsencode(top / "work"), files)
            return await self._in_folder(program, top)
        except OSError as error:
            raise SandboxError(f"the program could not be started: {error}") from error
        finally:
            shutil.rmtree(top, ignore_errors=True)

    async def _in_folder(self, program: Program, top: Path) -> Execution:
        limits, work = program.limits, top / "work"
        alone = dataclasses.replace(limits, processes=_PROCESSES)
        # Files, no pipes: their size is limited.
        with (
            (top / "stdin").open("rb") as stdin,
            (top / "stdout").open("a+b") as stdout,
            (top / "stderr").open("a+b") as stderr,
        ):
            process = subprocess.Popen(
                [*settings_of(alone, _LAUNCH)["drop"], *program.argv],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=work,
                env=_environment(work),
                start_new_session=True,
            )
            self._running.add(process)
            try:
                cpu_s = await until_end(
                    process, lambda: kill_group(process), limits.wall_s
                )
            finally:
                self._running.remove(process)
            most = limits.output_bytes
            printed = [os.pread(f.fileno(), most + 1, 0) for f in (stdout, stderr)]
        code = process.returncode
        if max(map(len, printed)) > most:
            ending = Ending.OUTPUT_LIMIT
        elif cpu_s is None:
            ending = Ending.WALL_LIMIT
        elif cpu_s >= limits.cpu_s:
            ending = Ending.CPU_LIMIT
        else:
            ending = Ending.SIGNALLED if code < 0 else Ending.EXITED
        files = {}
        if program.collect:
            found = collect(os.open(work, FOLDER_FLAGS), limits.scratch_bytes)
            files = {os.fsdecode(path): content for path, content in found}
        code = code if ending is Ending.EXITED else None
        return Execution(ending, code, *(text[:most] for text in printed), files)


def _environment(work: Path) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(work),
        "TMPDIR": str(work.parent),
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }
