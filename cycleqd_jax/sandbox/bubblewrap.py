"""The default sandbox: bubblewrap (https://github.com/containers/bubblewrap).

Each program runs in its own user, PID, mount, network, IPC, UTS and (if permitted)
cgroup namespaces. It cannot create user namespaces, sees a read-only system and one
small private file system, and is watched by a trusted process 1 (`_supervisor.py`) that
it can neither trace nor signal. All communication uses file descriptors created here:
request and standard input are memory files, standard output and error are pipes, and
the report comes through a socket. Closing our half of it stops the program, and so does
the end of this process.
"""

import asyncio
import contextlib
import logging
import math
import os
import resource
import socket
import subprocess
from collections.abc import Callable

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox._collect import MAX_ENTRIES, MAX_PATH_BYTES
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
from cycleqd_jax.sandbox.check import check_program
from cycleqd_jax.sandbox.descriptors import Descriptors
from cycleqd_jax.sandbox.gate import Gate
from cycleqd_jax.sandbox.host import Host, inspect_host
from cycleqd_jax.sandbox.process import Ended, first_process, until_end
from cycleqd_jax.sandbox.shells import Shells

_PENDING_SIGNALS = 256  # and timers, of all processes together
_GRACE_S = 60.0  # after the wall-clock limit, for start and clean-up under load
_REPORT_BYTES = MAX_ENTRIES * (MAX_PATH_BYTES + 128)  # beside the content of files
_ATTEMPTS = 3
_PAUSE_S = 0.2  # before the second attempt; doubled for the third
_PASSWD = b"user:x:1000:1000::/box/work:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
_GROUP = b"user:x:1000:\nnogroup:x:65534:\n"
_ENDINGS = {
    "exited": Ending.EXITED,
    "signalled": Ending.SIGNALLED,
    "cpu": Ending.CPU_LIMIT,
    "wall": Ending.WALL_LIMIT,
    "memory": Ending.MEMORY_LIMIT,
    "files": Ending.ENTRIES_LIMIT,
    "stopped": Ending.WALL_LIMIT,  # by us, because the supervisor was late
}
_log = logging.getLogger(__name__)


class BubblewrapSandbox:
    """Runs programs under bubblewrap, at most `workers` at once.

    A program runs as user 1000 in `/box/work`, which is also `HOME`. Its files there
    and in `/tmp` count towards `scratch_bytes`.

    Only the total CPU time of all processes decides about `Ending.CPU_LIMIT`. A program
    that reaches the wall-clock limit runs once more, alone, and only that run counts;
    one whose first process is stopped by a signal has ended.
    A write beyond `file_bytes` fails. At most 4096 files and folders, 64 levels deep
    and `scratch_bytes` large, are collected; bytes of names that are not UTF-8 become
    surrogates (`os.fsdecode`). They can be given as `Program.files` again; permissions,
    links and times are lost.

    If started as root, each worker has its own unprivileged user id.

    Args:
      workers: programs at once; at least 1.

    Raises:
      BadInputError: bubblewrap is missing, or present but not permitted.
    """

    def __init__(self, workers: int):
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self._host = inspect_host(workers)
        self._gate = Gate(workers)
        self._shells = Shells(self._host, self._gate)
        self._stops: set[Callable[[], None]] = set()
        self._closed = False

    async def run(self, program: Program) -> Execution:
        """Runs `program` to its end or limit.

        Raises:
          ValueError: see `check_program`.
          SandboxError: the sandbox failed three times, or is closed.
        """
        check_program(program)
        return await self._gate.run(lambda slot: self._attempts(program, slot))

    def shell(
        self, root: Root = PLAIN_ROOT, limits: ShellLimits = DEFAULT_SHELL_LIMITS
    ) -> contextlib.AbstractAsyncContextManager[Shell]:
        """A fresh machine for one episode; see `shells`.

        Raises:
          SandboxError: it could not be started, or the sandbox is closed.
        """
        if self._closed:
            raise SandboxError("the sandbox is closed; make a new one")
        return self._shells.open(root, limits)

    async def close(self) -> None:
        """Stops running programs, with a `SandboxError`, and refuses more."""
        self._closed = True
        self._shells.close()
        for stop in tuple(self._stops):
            stop()
        async with self._gate.enter(alone=True):
            pass  # waits until all have ended

    async def _attempts(self, program: Program, slot: int) -> Execution:
        for attempt in range(1, _ATTEMPTS + 1):
            if self._closed:
                raise SandboxError("the sandbox is closed; make a new one")
            try:
                return await self._once(program, slot)
            except (SandboxError, OSError) as error:
                if attempt == _ATTEMPTS:
                    raise SandboxError(
                        f"{program.argv[0]!r} could not be run in a sandbox after "
                        f"{attempt} attempts; the last error was: {error}"
                    ) from error
                _log.warning("attempt %d of %d: %s", attempt, _ATTEMPTS, error)
            await asyncio.sleep(_PAUSE_S * attempt)
        raise AssertionError("unreachable")

    async def _once(self, program: Program, slot: int) -> Execution:
        with Descriptors() as fds:
            sock, first, inside = first_process(
                fds,
                self._host.python,
                self._host.supervisor,
                _request(program, self._host),
            )
            fds.callback(sock.close)
            out_read, out_write = fds.pipe()
            err_read, err_write = fds.pipe()
            uid = self._host.uid(slot)
            if uid is not None:  # so that the program can open /dev/stdout
                os.fchown(out_write, uid, uid)
                os.fchown(err_write, uid, uid)
            files = {
                "/etc/passwd": fds.memory(_PASSWD),
                "/etc/group": fds.memory(_GROUP),
            }
            seccomp = fds.memory(self._host.seccomp) if self._host.seccomp else None
            command = self._host.command(
                uid=uid,
                scratch_bytes=program.limits.scratch_bytes,
                files=files,
                seccomp=seccomp,
            )
            seccomps = () if seccomp is None else (seccomp,)
            process = subprocess.Popen(
                [*command, *first],
                stdin=fds.memory(program.stdin),
                stdout=out_write,
                stderr=err_write,
                pass_fds=(*inside, *files.values(), *seccomps),
                env={},
                cwd="/",
                start_new_session=True,  # Ctrl-C reaches only us
            )
            fds.close(out_write, err_write, *inside)

            def stop() -> None:
                # Closing is not enough: a fork of ours may keep the socket open.
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)

            self._stops.add(stop)
            limits = program.limits
            try:
                ended = await until_end(
                    process,
                    {
                        out_read: limits.output_bytes,
                        err_read: limits.output_bytes,
                        sock.fileno(): limits.scratch_bytes + _REPORT_BYTES,
                    },
                    stop,
                    limits.wall_s + _GRACE_S,
                )
            finally:
                self._stops.remove(stop)
            return self._verdict(program, process.returncode, ended)

    def _verdict(self, program: Program, status: int, ended: Ended) -> Execution:
        """The result, from the supervisor's report and the captured output."""
        stdout, stderr, report = ended.printed
        try:
            # If bubblewrap was killed, the supervisor may still be writing.
            if status != 0:
                raise SandboxError("the sandbox ended without a complete report")
            reason, code, files = read_report(report)
        except SandboxError as error:
            said = stderr.decode(errors="replace").strip()[-500:]
            raise SandboxError(
                f"{error} (exit status {status}, stderr {said!r})"
            ) from error
        ending = _ENDINGS[reason]
        # The output decides first: whether the program ended before we had read too
        # much output must not change the result.
        if ended.over:
            ending = Ending.OUTPUT_LIMIT
        elif reason == "stopped" and self._closed:
            raise SandboxError("the sandbox was closed while a program ran")
        code = code if ending is Ending.EXITED else None
        return Execution(ending, code, stdout, stderr, files)


def read_report(data: bytes) -> tuple[str, int, dict[str, bytes]]:
    """The supervisor's report: (ending, status or signal, files as in `Execution`).

    Raises:
      SandboxError: it is missing or incomplete.
    """
    place = 0

    def line() -> list[bytes]:
        nonlocal place
        start, place = place, data.index(b"\n", place, place + 128) + 1
        return data[start:place].split()

    files = {}
    try:
        reason, code = line()
        while (sizes := line()) != [b"end"]:
            path, content = map(int, sizes)
            middle, start = place + path, place
            place = middle + content
            if not start <= middle <= place <= len(data):
                raise ValueError("an entry is damaged")
            files[os.fsdecode(data[start:middle])] = data[middle:place]
        return reason.decode("ascii"), int(code), files
    except ValueError as error:
        raise SandboxError(
            f"the sandbox ended without a complete report: {error}"
        ) from error


def _request(program: Program, host: Host) -> dict[str, object]:
    """The request to the supervisor."""
    limits = program.limits
    return {
        "argv": [os.fsencode(word) for word in program.argv],
        "files": [(os.fsencode(path), data) for path, data in program.files],
        "path": host.search_path.encode(),
        "drop_capability": host.drop_capability,
        "rlimits": _rlimits(limits, host),
        "cpu_s": float(limits.cpu_s),
        "wall_s": float(limits.wall_s),
        "memory_bytes": limits.memory_bytes,
        "scratch_entries": limits.scratch_entries,
        "collect": program.collect,
        "collect_bytes": limits.scratch_bytes,
    }


def _rlimits(limits: Limits, host: Host) -> list[tuple[int, int, int]]:
    """(resource, soft, hard) for the program's processes."""
    # The supervisor enforces the exact total; the kernel's limit, in whole seconds per
    # process, is only a second barrier.
    cpu_s = math.ceil(limits.cpu_s) + 1
    same = {
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_NPROC: limits.processes + host.own_processes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_CORE: 1,  # 0 would still run a core_pattern that is a pipe
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: _PENDING_SIGNALS,
    }
    return [
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        *((number, value, value) for number, value in same.items()),
    ]
