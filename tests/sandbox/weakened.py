"""Sandboxes with one protection missing, and the threats that must show it.

No test module. A threat whose check cannot fail proves nothing; here each of them must.
What is taken away harms no host: nothing here lets a program write to it.
"""

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from cycleqd_jax.sandbox import base, bubblewrap
from cycleqd_jax.sandbox.base import Limits
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox
from cycleqd_jax.sandbox.none import UnsafeSandbox


@dataclasses.dataclass(frozen=True)
class Weakening:
    """A sandbox that lacks something.

    Attributes:
      sandbox: makes it, for so many workers.
      flagged: threats that must be found to succeed or to be misreported.
      left: what must be found to be left behind.
      stays: those of the threats that only show in what they leave behind.
    """

    sandbox: Callable[[int], object]
    flagged: tuple[str, ...]
    left: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()


def with_host(edit: Callable[[list[str]], list[str]] = list, **changes):
    """A maker of sandboxes with another command line, or other fields of `Host`."""

    def make(workers: int) -> BubblewrapSandbox:
        sandbox = BubblewrapSandbox(workers)
        host = sandbox._host
        names = ("python", "prlimit", "seccomp", "code", "environment", "own_processes")
        fields = {name: getattr(host, name) for name in (*names, "drop_capability")}
        sandbox._host = mock.Mock(
            wraps=host,
            command=lambda **words: edit(host.command(**words)),
            **{**fields, **changes},
        )
        return sandbox

    return make


def with_limits(change: Callable[[Limits], Limits]):
    """A maker of sandboxes that grant programs more than they were given."""

    def make(workers: int) -> BubblewrapSandbox:
        class Generous(BubblewrapSandbox):
            async def _once(self, program, slot):
                limits = change(program.limits)
                program = dataclasses.replace(program, limits=limits)
                return await super()._once(program, slot)

        return Generous(workers)

    return make


def without_total_limits(workers: int) -> BubblewrapSandbox:
    """A sandbox that lets all processes together use what they want."""

    settings_of = bubblewrap.settings_of

    def generous(*args, **more):
        settings = settings_of(*args, **more)
        unlimited = {"memory_bytes": 2**40, "entries": 2**40, "cpu_s": 60.0}
        return settings | {"limits": settings["limits"] | unlimited}

    bubblewrap.settings_of = generous
    return impatient(BubblewrapSandbox)(workers)


def impatient(kind: type) -> Callable[[int], BubblewrapSandbox]:
    """A maker of sandboxes with a short time on the clock."""

    class Impatient(kind):
        async def _once(self, program, slot):
            limits = program.limits
            limits = dataclasses.replace(limits, wall_s=min(limits.wall_s, 2.0))
            program = dataclasses.replace(program, limits=limits)
            return await super()._once(program, slot)

    return Impatient


def with_process_1(old: str, new: str):
    """A maker of sandboxes with an edited process 1, and little patience."""
    read = Path.read_bytes

    def edited(path: Path) -> bytes:
        content = read(path)
        if old.encode() in content:
            assert content.count(old.encode()) == 1
            content = content.replace(old.encode(), new.encode())
        return content

    def make(workers: int) -> BubblewrapSandbox:
        assert any(old in f.read_text() for f in Path(base.__file__).parent.iterdir())
        with mock.patch.object(Path, "read_bytes", edited):
            return impatient(BubblewrapSandbox)(workers)

    return make


def unprotected(workers: int) -> UnsafeSandbox:
    """No sandbox, with a Python that every user can start."""
    if not os.access(sys.executable, os.X_OK):
        sys.executable = shutil.which("python3")
    return UnsafeSandbox(workers)


def more(**factors: float) -> Callable[[Limits], Limits]:
    """Limits that are so many times those given."""

    def change(limits: Limits) -> Limits:
        changes = {
            n: type(getattr(limits, n))(getattr(limits, n) * f)
            for n, f in factors.items()
        }
        return dataclasses.replace(limits, **changes)

    return change


def after(option: str, *extra: str) -> Callable[[list[str]], list[str]]:
    """Puts `extra` behind the first `option` of a command line."""

    def edit(command: list[str]) -> list[str]:
        place = command.index(option) + 1
        return [*command[:place], *extra, *command[place:]]

    return edit


def uncovered(folder: str) -> Callable[[list[str]], list[str]]:
    """A command line that does not cover a folder."""

    def edit(command: list[str]) -> list[str]:
        place = command.index(folder)
        return command[: place - 3] + command[place + 3 :]

    return edit


WEAKENINGS = {
    "no filter of system calls": Weakening(
        with_host(seccomp=b""),
        (
            "System V shared memory",
            "System V semaphores and queues",
            "memory files",
            "key rings",
            "changing the supervisor's limits",
            "every denied system call",
            "userfaultfd",
            "sockets that belong to no namespace",
            "watches of files",
        ),
    ),
    "the host's network": Weakening(
        with_host(after("--unshare-all", "--share-net")),
        (
            "the host's network",
            "the host's datagrams and socket files",
            "routes and interfaces of the host",
        ),
        left=("datagrams",),
    ),
    "the host's secrets": Weakening(
        with_host(after("--as-pid-1", "--ro-bind", "/var", "/var")),
        ("the host's files",),
    ),
    "a capability": Weakening(
        with_host(drop_capability=("/usr/bin/env", "--")),
        ("privileges",),
    ),
    "an open folder of the supervisor": Weakening(
        with_host(uncovered("/proc/1")), ("the supervisor's folder",)
    ),
    "pseudo terminals": Weakening(
        with_host(uncovered("/dev/pts")), ("pseudo terminals",)
    ),
    "stops that nobody notices": Weakening(
        with_process_1(
            "if reason is None and clock.processes.stopped(pid)", "if False"
        ),
        ("stopping itself",),
    ),
    "no total limits": Weakening(
        without_total_limits,
        (
            "CPU time spread over children",
            "CPU time in children that nobody waits for",
            "memory of many children, together too much",
            "a few more files than allowed, and a quick end",
        ),
    ),
    "forgotten children": Weakening(
        with_process_1("self._ended_s += own_s", "pass"),
        ("CPU time in children that nobody waits for",),
    ),
    "shared memory not looked at": Weakening(
        with_process_1('b"Pss_Shmem:"', 'b"nothing"'),
        ("shared mappings of many children",),
    ),
    "every shared page counted for each": Weakening(
        with_process_1(" and self.shared_bytes() > most", ""),
        ("memory shared by many children, together not too much",),
    ),
    "larger limits": Weakening(
        with_limits(more(processes=1.5, open_files=2, file_bytes=2, scratch_bytes=2)),
        (
            "fork bomb, counted",
            "thread bomb",
            "opening files without end",
            "one large file",
            "disk filler",
            "disk filler with deleted files",
            "its standard input as a store",
            "pipes as a store",
        ),
    ),
    "more output": Weakening(
        with_limits(more(output_bytes=2)),
        ("output flood", "error flood", "one byte too much, and a quick end"),
    ),
    "more time": Weakening(
        with_limits(more(wall_s=8)), ("a sleep that ends too late",)
    ),
    "no sandbox": Weakening(
        unprotected,
        (
            "the host's files",
            "the host's processes",
            "the host's network",
            "the host's datagrams and socket files",
            "daemon by double fork",
        ),
        left=("processes", "children", "datagrams"),
        stays=("daemon by double fork",),
    ),
}
