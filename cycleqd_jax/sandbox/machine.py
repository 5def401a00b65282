"""The machine of one episode: its file systems, its namespaces, its worlds."""

from collections.abc import Mapping, Sequence

from cycleqd_jax.sandbox.base import Root, ScriptRun, ShellLimits
from cycleqd_jax.sandbox.holder import Holder, python_place
from cycleqd_jax.sandbox.host import Host
from cycleqd_jax.sandbox.world import EPISODE, Mounts, World, episode_settings, wall

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"  # folders that no episode can write to


class Machine:
    """See the module.

    Args:
      host: facts of this computer.
      holder: holds the file systems.
      slot: number of the episode, among those that there are.
      limits: of the episode.
      code: what process 1 executes.

    Attributes:
      system: (folder, place inside) of the system's own programs.
      pts: folder with its terminals.
      pids: of the bubblewraps that run, as seen from outside.
    """

    def __init__(
        self, host: Host, holder: Holder, slot: int, limits: ShellLimits, code: bytes
    ):
        self.host = host
        self.limits = limits
        self.pids: set[int] = set()
        self._holder = holder
        self._slot = slot
        self._code = code
        self._userns: int | None = None
        self._opened = False
        self._small = False
        place = python_place(host.python)
        self._python = f"{place[1]}/bin/python3" if place else host.python

    async def open(self, root: Root) -> World:
        """Mounts its file systems; its own world, which is not ready yet.

        Raises:
          SandboxError: that could not be done.
        """
        most = 2 * self.limits.processes
        self._userns = await self._holder.user_namespace(self._slot, most)
        self._opened = True
        made = await self._holder.ask(
            "open",
            userns=self._userns if self.host.as_root else None,
            slot=self._slot,
            owner=self._holder.owner(self._slot),
            image=root.image,
            overlay=root.overlay,
            limits={
                "scratch_bytes": self.limits.scratch_bytes,
                "scratch_entries": self.limits.scratch_entries,
                "terminals": self.limits.terminals,
            },
        )
        self.pts, self.system = made["pts"], made["system"]
        own = self.system
        if root.image is not None:
            self._python, self._small, own = "/usr/bin/python3", True, []
        elif root.overlay:
            own = [pair for pair in own if not pair[1].startswith("/usr/")]
        return self.start_world(Mounts(made["tree"], made["usr"], own, self.pts))

    def start_world(self, mounts: Mounts) -> World:
        """Starts a world with namespaces of its own, but for that of users."""
        new = ["--unshare-user"]
        if self._userns is not None:
            new = ["--userns", str(self._userns)]
        start = [*self.start(), *new, "--unshare-pid", "--as-pid-1"]
        world = World.start(
            wall(start, EPISODE, {"PATH": PATH}),
            mounts,
            episode_settings(self.limits, self.host.setpriv, small=self._small),
            self._code,
            self.host.seccomp,
            () if self._userns is None else (self._userns,),
            self._python,
        )
        self.pids.add(world.pid)
        return world

    def start(self) -> list[str]:
        """Start of a command line for a bubblewrap on its file systems."""
        return [*self._holder.enter(self._slot), self.host.bwrap]

    async def ask(self, call: str, **words: object):
        """Asks the holder for something of this episode, see `_holder._Slot`."""
        return await self._holder.ask_slot(self._slot, call, **words)

    async def close(self) -> None:
        """Unmounts all that is mounted."""
        if self._opened:
            await self._holder.forget(self._slot)


async def run_in(
    world: World,
    argv: Sequence[str | bytes],
    environment: Mapping[str, str],
    limit_s: float,
    *,
    alone: bool,
) -> ScriptRun:
    """Runs a command in a world.

    Args:
      world: where.
      argv: the command.
      environment: its variables.
      limit_s: seconds by the world's clock.
      alone: whether nothing else runs there, before or after.
    """
    ended, status, _, output = await world.ask(
        limit_s,
        do="run",
        argv=[encode(word) for word in argv],
        env=dict(environment),
        limit_s=limit_s,
        alone=alone,
    )
    return ScriptRun(status, ended, output)


def encode(word: str | bytes) -> bytes:
    """A word as bytes; what cannot be encoded becomes question marks."""
    return word if isinstance(word, bytes) else word.encode("utf-8", "replace")
