"""No sandbox: programs run with our own rights."""

import asyncio
import concurrent.futures
import contextlib
import marshal
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox._collect import FOLDER_FLAGS, Collector, write_files
from cycleqd_jax.sandbox.base import (
    DEFAULT_SHELL_LIMITS,
    PLAIN_ROOT,
    Ending,
    Execution,
    Limits,
    Program,
    Root,
    Shell,
    ShellLimits,
)
from cycleqd_jax.sandbox.capture import Capture
from cycleqd_jax.sandbox.check import check_program
from cycleqd_jax.sandbox.gate import Gate
from cycleqd_jax.sandbox.report import parse_entries

# A small Python program sets the limits and then executes the program: `preexec_fn` of
# `subprocess` is not safe in a process with threads.
_LAUNCH = """
import _signal, marshal, os, resource, sys
for number, soft, hard in marshal.loads(bytes.fromhex(sys.argv[1])):
    if hard != resource.RLIM_INFINITY:
        most = resource.getrlimit(number)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(number, (soft, hard))
_signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except PermissionError:
    reason, status = "permission denied", 126
except OSError:
    reason, status = "command not found", 127
os.write(2, f"{sys.argv[2]}: {reason}\\n".encode())
os._exit(status)
"""
_STOP_GRACE_S = 10.0


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
        # One thread per worker: only `wait4` returns the CPU time of a process.
        self._threads = concurrent.futures.ThreadPoolExecutor(workers)
        self._running: set[int] = set()
        self._closed = False

    async def run(self, program: Program) -> Execution:
        """Runs `program` to its end or limit.

        Raises:
          ValueError: see `check_program`.
          SandboxError: the program could not be started, or the sandbox is closed.
        """
        check_program(program)
        return await self._gate.run(lambda _: self._once(program))

    def shell(
        self, root: Root = PLAIN_ROOT, limits: ShellLimits = DEFAULT_SHELL_LIMITS
    ) -> contextlib.AbstractAsyncContextManager[Shell]:
        """There is none: it would be a root shell of this machine.

        Raises:
          BadInputError: always.
        """
        raise BadInputError(
            "sandbox.kind is none, which has no shells; expected bubblewrap"
        )

    async def close(self) -> None:
        """Stops running programs and refuses more."""
        self._closed = True
        for pid in tuple(self._running):
            _kill_group(pid)
        async with self._gate.enter(alone=True):
            self._threads.shutdown()  # now that all have ended

    async def _once(self, program: Program) -> Execution:
        if self._closed:
            raise SandboxError("the sandbox is closed; make a new one")
        top = Path(tempfile.mkdtemp(prefix="cycleqd-unsafe-"))
        try:
            work = top / "work"
            work.mkdir()
            stdin = top / "stdin"
            stdin.write_bytes(program.stdin)
            write_files(
                os.fsencode(work),
                [(os.fsencode(path), data) for path, data in program.files],
            )
            return await self._in_folder(program, work, stdin)
        except OSError as error:
            raise SandboxError(f"the program could not be started: {error}") from error
        finally:
            shutil.rmtree(top, ignore_errors=True)

    async def _in_folder(self, program: Program, work: Path, stdin: Path) -> Execution:
        limits = program.limits
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        try:
            with stdin.open("rb") as source:
                process = subprocess.Popen(
                    _command(program),
                    stdin=source,
                    stdout=out_write,
                    stderr=err_write,
                    cwd=work,
                    env=_environment(work),
                    start_new_session=True,
                )
            os.close(out_write)
            os.close(err_write)
            out_write = err_write = None
            over = asyncio.Event()
            with (
                Capture(out_read, limits.output_bytes, over) as stdout,
                Capture(err_read, limits.output_bytes, over) as stderr,
            ):
                self._running.add(process.pid)
                try:
                    timed_out, status, cpu_s = await _until_end(
                        process, over, limits, self._threads
                    )
                finally:
                    self._running.remove(process.pid)
                stdout.drain()
                stderr.drain()
        finally:
            for fd in (out_read, err_read, out_write, err_write):
                if fd is not None:
                    os.close(fd)
        code = os.waitstatus_to_exitcode(status)
        if stdout.over or stderr.over:
            ending = Ending.OUTPUT_LIMIT
        elif cpu_s >= limits.cpu_s or code == -signal.SIGXCPU:
            ending = Ending.CPU_LIMIT
        elif timed_out:
            ending = Ending.WALL_LIMIT
        else:
            ending = Ending.SIGNALLED if code < 0 else Ending.EXITED
        files = _collect(work, limits.scratch_bytes) if program.collect else {}
        return Execution(
            ending=ending,
            exit_code=code if ending is Ending.EXITED else None,
            stdout=stdout.data,
            stderr=stderr.data,
            files=files,
        )


async def _until_end(process, over, limits, threads) -> tuple[bool, int, float]:
    """Waits for the end or stops it: (timed out, raw status, CPU seconds)."""
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(threads, os.wait4, process.pid, 0)
    flooded = asyncio.ensure_future(over.wait())
    try:
        await asyncio.wait(
            (ended, flooded),
            timeout=limits.wall_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
    finally:  # also when cancelled
        timed_out = not ended.done() and not over.is_set()
        flooded.cancel()
        _kill_group(process.pid)
        await asyncio.wait((ended,), timeout=_STOP_GRACE_S)
        process.returncode = 0  # the thread has reaped it
    _, status, usage = await ended
    return timed_out, status, usage.ru_utime + usage.ru_stime


def _collect(work: Path, budget: int) -> dict[str, bytes]:
    with tempfile.TemporaryFile() as report:
        Collector(budget, report.fileno()).folder(os.open(work, FOLDER_FLAGS))
        report.seek(0)
        return parse_entries(report.read())


def _kill_group(pid: int) -> None:
    # The group may outlive its leader.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _command(program: Program) -> list[str]:
    limits = marshal.dumps(_rlimits(program.limits)).hex()
    return [sys.executable, "-I", "-S", "-c", _LAUNCH, limits, *program.argv]


def _rlimits(limits: Limits) -> list[tuple[int, int, int]]:
    cpu_s = math.ceil(limits.cpu_s)
    same = {
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_CORE: 0,
    }
    return [
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        *((number, value, value) for number, value in same.items()),
    ]


def _environment(work: Path) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(work),
        "TMPDIR": str(work.parent),
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }
