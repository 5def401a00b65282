"""Shells behind bubblewrap: a machine for one episode, and a look at what it left.

`Shells` starts them. The episode's own world (`world.World`) has its own namespaces, a
root file system in memory that it can write to, and our process 1. Once it has ended,
`looking.Looking` shows what it left.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator, Sequence

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox import permission
from cycleqd_jax.sandbox.base import (
    DEFAULT_SHELL_LIMITS,
    ENVIRONMENT,
    PLAIN_LOOK,
    PLAIN_ROOT,
    SHELL_ENVIRONMENT,
    Look,
    Root,
    ScriptRun,
    ShellLimits,
    Typed,
)
from cycleqd_jax.sandbox.descriptors import Descriptors
from cycleqd_jax.sandbox.gate import Gate
from cycleqd_jax.sandbox.holder import FIRST_UID, Holder, python_place
from cycleqd_jax.sandbox.host import Host, inspect_host, is_root
from cycleqd_jax.sandbox.looking import KILLED, Looking
from cycleqd_jax.sandbox.pace import within
from cycleqd_jax.sandbox.process import PATH
from cycleqd_jax.sandbox.walls import DROP, EPISODE, Mounts, Wall
from cycleqd_jax.sandbox.world import START_S, World, encode, settings_of


class Shells:
    """Starts shells.

    Args:
      host: facts of this machine.
      gate: bounds what runs at once; a shell that waits takes no place.
    """

    def __init__(self, host: Host, gate: Gate):
        self.host = host
        self.gate = gate
        self.holder = Holder(host.as_root, python_place(host.python))
        self._used: set[int] = set()

    @contextlib.asynccontextmanager
    async def open(
        self, root: Root = PLAIN_ROOT, limits: ShellLimits = DEFAULT_SHELL_LIMITS
    ) -> AsyncIterator["BubblewrapShell"]:
        """Starts a shell's machine, and ends it with all that is in it.

        Raises:
          SandboxError: it could not be started.
        """
        slot = next(n for n in range(len(self._used) + 1) if n not in self._used)
        self._used.add(slot)
        shell = BubblewrapShell(self, slot, limits)
        try:
            await shell.open(root)
            yield shell
        finally:
            try:
                await asyncio.shield(asyncio.ensure_future(shell.close()))
            finally:
                self._used.discard(slot)

    def close(self) -> None:
        """Ends what holds the file systems; the next shell starts it again."""
        self.holder.close()


def check_shells(root: Root = PLAIN_ROOT) -> None:
    """Starts a shell's machine, looks whether it comes up, and ends it.

    Raises:
      BadInputError: it does not; says why and what to do.
    """
    if root.overlay and root.image is None and not is_root():
        raise BadInputError(
            "sandbox: the machine's own programs can only be changed for an episode "
            f"where it is started as root; {_remedy('overlay', root)}"
        )
    shells = Shells(inspect_host(1), Gate(1))

    async def look() -> None:
        async with shells.open(root) as shell:
            await shell.end()
            run = await shell.look("true", limit_s=START_S)
            if run.status != 0:
                raise SandboxError(f"a script ended with status {run.status}")

    try:
        # In a thread, since whoever asks may have a loop that runs.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, look()).result()
    except (SandboxError, OSError) as error:
        raise BadInputError(
            f"sandbox: a shell could not be started here ({error}); "
            f"{_remedy(str(error), root)}"
        ) from error
    finally:
        shells.close()


def _remedy(said: str, root: Root) -> str:
    """Advice for the user where a shell does not start."""
    if root.overlay and ("overlay" in said or "cannot be mapped" in said):
        return (
            "choose the backend host, or start as root on Linux 5.19 or later with "
            "/usr on a file system like ext4, xfs or btrfs, or give as image a folder "
            "whose files belong to the user who starts it"
        )
    return permission.remedy(said, FIRST_UID)


class BubblewrapShell:
    """One shell; made by `Shells.open`. See `base.Shell`.

    Args:
      shells: its maker.
      slot: number of the episode, among those that there are.
      limits: of the episode.

    Attributes:
      limits: of the episode.
      wall: starts bubblewraps on its file systems.
      world: its own world.
      system: (folder, place inside) of the system's own programs.
      pts: folder with its terminals.
      accounts: texts of its /etc/passwd and /etc/group before it began, or None.
      pids: of the bubblewraps that run, as seen from outside.
    """

    wall: Wall
    system: Sequence[Sequence[str]]
    pts: str

    def __init__(self, shells: Shells, slot: int, limits: ShellLimits):
        self._shells = shells
        self._slot = slot
        self._userns: int | None = None
        self._opened = False
        self._left_s = limits.judging_s  # for judging
        self.limits = limits
        self.world: World | None = None
        self.accounts: list[str | None] = [None, None]
        self.pids: set[int] = set()
        self._keeps = False  # looks see the processes that the episode had

    async def open(self, root: Root) -> None:
        """Starts its machine."""
        async with self._shells.gate.enter():
            host, holder = self._shells.host, self._shells.holder
            most = 2 * self.limits.processes
            self._userns = await holder.user_namespace(self._slot, most)
            self._opened = True
            made = await holder.ask(
                "open",
                userns=self._userns if host.as_root else None,
                slot=self._slot,
                owner=holder.owner(self._slot),
                image=root.image,
                overlay=root.overlay,
                limits=dataclasses.asdict(self.limits),
            )
            self.wall = Wall([*holder.enter(self._slot), host.bwrap], host.seccomp)
            self.pts, self.system, own = made["pts"], made["system"], made["own"]
            self._python = made["python"]
            self._code = host.code if root.image is None else host.plain_code
            mounts = Mounts(made["tree"], made["usr"], own, self.pts)
            self.world = self.start_world(mounts)
            await self.world.ready()

    def start_world(self, mounts: Mounts) -> World:
        """Starts a world with namespaces of its own, but for that of users."""

        def wall(fds: Descriptors) -> list[str]:
            users = ["--unshare-user"]
            if self._userns is not None:
                known = os.dup(self._userns)
                fds.take(known)
                users = ["--userns", str(known)]
            return self.wall.words(
                mounts,
                fds,
                namespaces=[*users, "--unshare-pid", "--as-pid-1"],
                capabilities=EPISODE,
                environment={"PATH": PATH},
            )

        host = self._shells.host
        drop = (host.setpriv, *DROP, host.prlimit)
        settings = settings_of(self.limits, drop)
        world = World.start(wall, self._python, self._code, settings)
        self.pids.add(world.pid)
        return world

    async def ask(self, call: str, **words: object):
        """Asks the holder for something of this episode, see `_slot.Slot`."""
        return await self._shells.holder.ask(
            "slot", slot=self._slot, call=call, **words
        )

    async def script(self, language: str, code: str, *, limit_s: float) -> ScriptRun:
        """Runs a script that prepares the machine, in `/`."""
        argv = {
            "bash": ("/bin/bash", "-c", code, "--"),
            "python": ("/usr/bin/env", "python3", "-c", code),
        }
        async with self._shells.gate.enter():
            return await self.world.run(
                argv[language], ENVIRONMENT, limit_s, alone=False
            )

    async def start_shell(self, *, terminal: bool, limit_s: float) -> Typed:
        """Starts the login shell."""
        return await self._typed(
            limit_s, do="shell", env=dict(SHELL_ENVIRONMENT), terminal=terminal
        )

    async def type(self, code: str, *, limit_s: float) -> Typed:
        """Types into the shell, and waits until it is ready again or out of time."""
        return await self._typed(limit_s, do="type", code=encode(code))

    async def _typed(self, limit_s: float, **message: object) -> Typed:
        async with self._shells.gate.enter():
            ended, _, valid, parts = await self.world.ask(
                limit_s, limit_s=limit_s, **message
            )
        return Typed(ended, parts[0], valid)

    async def remember(self) -> None:
        """Notes the accounts, for those that the episode takes away."""
        self.accounts = await self.ask("accounts")

    async def end(self, *, keep_processes: bool = False) -> None:
        """Ends the episode: no process of it runs any more."""
        self._keeps = keep_processes
        async with self._shells.gate.enter():
            await self.clear()

    async def clear(self) -> None:
        """Ends all that runs in its namespace of processes."""
        await self.world.ask(0.0, do="end", keep=self._keeps)

    async def look(
        self,
        code: str,
        arguments: Sequence[str | bytes] = (),
        *,
        limit_s: float,
        how: Look = PLAIN_LOOK,
    ) -> ScriptRun:
        """Runs a bash script that looks at what the episode left, in `/`."""
        async with self._shells.gate.enter():
            work = Looking(self).look(code, arguments, how)
            limit_s = min(limit_s, self._left_s)
            run, taken_s = await within(work, limit_s, lambda: self.pids)
            self._left_s -= taken_s
        return KILLED if run is None else run

    async def close(self) -> None:
        """Ends all that runs, and unmounts all that is mounted."""
        try:
            if self.world is not None:
                await self.world.close()
        finally:
            if self._opened:
                await self._shells.holder.forget(self._slot)
