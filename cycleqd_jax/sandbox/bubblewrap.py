"""The default sandbox: bubblewrap (https://github.com/containers/bubblewrap).

Each program runs in its own user, PID, mount, network, IPC, UTS and (if permitted)
cgroup namespaces. It cannot create user namespaces, sees a read-only system and one
small private file system, and is watched by a trusted process 1 (`_first.py`) that it
can neither trace nor signal. All communication uses file descriptors created here:
standard input is a memory file, and all else goes through a socket to process 1.
Closing our half of it stops the program, and so does the end of this process.
"""

import asyncio
import contextlib
import logging
import os

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox._collect import MAX_ENTRIES, MAX_PATH_BYTES
from cycleqd_jax.sandbox.base import (
    DEFAULT_SHELL_LIMITS,
    PLAIN_ROOT,
    Ending,
    Execution,
    Program,
    Root,
    Shell,
    ShellLimits,
)
from cycleqd_jax.sandbox.check import check_program, refused
from cycleqd_jax.sandbox.descriptors import Descriptors
from cycleqd_jax.sandbox.gate import Gate
from cycleqd_jax.sandbox.host import inspect_host
from cycleqd_jax.sandbox.shells import Shells
from cycleqd_jax.sandbox.world import World, settings_of

_ATTEMPTS = 3
_PAUSE_S = 0.2  # before the second attempt; doubled for the third
_PASSWD = b"user:x:1000:1000::/box/work:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
_GROUP = b"user:x:1000:\nnogroup:x:65534:\n"
_FOLDERS = ("/box", "/dev/shm")  # the file systems that a program can write to
_ENDINGS = {
    "cpu": Ending.CPU_LIMIT,
    "limit": Ending.WALL_LIMIT,
    "memory": Ending.MEMORY_LIMIT,
    "files": Ending.ENTRIES_LIMIT,
    "output": Ending.OUTPUT_LIMIT,
}
_log = logging.getLogger(__name__)


class BubblewrapSandbox:
    """Runs programs under bubblewrap, at most `workers` at once.

    A program runs as user 1000 in `/box/work`, which is also `HOME`. Its files there
    and in `/tmp` count towards `scratch_bytes`.

    Only the total CPU time of all processes decides about `Ending.CPU_LIMIT`, and the
    time that an idle machine would need about `Ending.WALL_LIMIT`. A program whose
    first process is stopped by a signal has ended. A write beyond `file_bytes` fails.
    At most 4096 files and folders, 64 levels deep and `scratch_bytes` large, are
    collected; bytes of names that are not UTF-8 become surrogates (`os.fsdecode`). They
    can be given as `Program.files` again; permissions, links and times are lost.

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
        self._running: set[World] = set()
        self._closed = False

    async def run(self, program: Program) -> Execution:
        """Runs `program` to its end or limit.

        Raises:
          ValueError: see `check_program`.
          SandboxError: the sandbox failed three times, or is closed.
        """
        if (execution := refused(program)) is not None:
            return execution
        check_program(program)
        async with self._gate.enter() as slot:
            return await self._attempts(program, slot)

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
        for world in self._running:
            world.stop()
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
        limits, host = program.limits, self._host
        settings = settings_of(
            limits,
            (*host.drop_capability, host.prlimit),
            own_processes=host.own_processes,
            folders=_FOLDERS,
        )

        def wall(fds: Descriptors) -> list[str]:
            return host.command(
                uid=host.uid(slot),
                scratch_bytes=limits.scratch_bytes,
                files={
                    "/etc/passwd": fds.memory(_PASSWD),
                    "/etc/group": fds.memory(_GROUP),
                },
                seccomp=fds.memory(host.seccomp) if host.seccomp else None,
            )

        world = World.start(wall, host.python, host.code, settings, program.stdin)
        self._running.add(world)
        try:
            await world.ready()
            names = min(limits.scratch_entries, MAX_ENTRIES) * MAX_PATH_BYTES
            ended, status, _, parts = await world.ask(
                limits.wall_s,
                most=2 * limits.output_bytes + limits.scratch_bytes + names,
                do="run",
                argv=[os.fsencode(word) for word in program.argv],
                env=host.environment,
                limit_s=float(limits.wall_s),
                alone=True,
                bound=limits.output_bytes,
                files=[(os.fsencode(path), data) for path, data in program.files],
                collected=limits.scratch_bytes if program.collect else None,
            )
        finally:
            self._running.discard(world)
            await world.close()
        stdout, stderr, *pairs = parts
        files = dict(zip(map(os.fsdecode, pairs[::2]), pairs[1::2], strict=True))
        ending = _ENDINGS.get(ended)
        if ending is None:
            ending = Ending.SIGNALLED if status < 0 else Ending.EXITED
        code = status if ending is Ending.EXITED else None
        return Execution(ending, code, stdout, stderr, files)
