"""Walls of an episode: bubblewraps on its file systems, which `_holder` holds."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

from cycleqd_jax.sandbox.descriptors import Descriptors

_SHM_BYTES = 2**20
_SYS_BYTES = 2**16
# What root of a container may by default.
_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE "
    "SYS_CHROOT AUDIT_WRITE SETFCAP"
).split()
_OURS = "SYS_PTRACE"  # process 1 alone has it
EPISODE = (*_CAPABILITIES, _OURS)
# Arguments of `setpriv` that take that away.
DROP = (
    *("--inh-caps=-all", "--ambient-caps=-all"),
    *(f"--bounding-set=-{_OURS.lower()}", "--"),
)
LOOKING = ("DAC_OVERRIDE", "SETUID", "SETGID")
_CPUS = "/sys/devices/system/cpu"
# They say something of the machine, or are errors of every `find`.
_HIDDEN = tuple(
    f"/proc/{name}"
    for name in ("keys", "key-users", "sysrq-trigger", "timer_list", "kallsyms")
    if os.path.exists(f"/proc/{name}")
)
_HIDDEN_FOLDERS = tuple(
    path for path in ("/proc/tty/driver", "/proc/scsi") if os.path.exists(path)
)
# All that can be seen of process 1.
_FIRST = {
    "cmdline": b"init\0",
    "comm": b"init\n",
    "stat": b"1 (init) S 0 1 1 0 -1 4194560 100 0 0 0 1 1 0 0 20 0 1 0 1 "
    b"1048576 64" + b" 18446744073709551615" + b" 0" * 27 + b"\n",
    "statm": b"256 64 32 1 0 32 0\n",
    "status": b"Name:\tinit\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t1\nPid:\t1\n"
    b"PPid:\t0\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nThreads:\t1\n",
}


@dataclasses.dataclass(frozen=True)
class Mounts:
    """The mounts that a wall shows.

    Attributes:
      root: folder that is the root, as the holder calls it.
      usr: folder that is /usr, or None.
      system: (folder, place) of programs that are shown read-only.
      pts: folder with terminals.
      read_only: whether nothing else can be changed either.
    """

    root: str
    usr: str | None
    system: Sequence[Sequence[str]]
    pts: str
    read_only: bool = False

    def words(self, fds: Descriptors) -> list[str]:
        """Arguments of bubblewrap; makes the descriptors that they name."""
        words = ["--ro-bind" if self.read_only else "--bind", self.root, "/"]
        if self.usr is not None:
            words += ["--bind", self.usr, "/usr"]
        for folder, place in self.system:
            words += ["--ro-bind", folder, place]
        words += ["--proc", "/proc"]
        for path in _HIDDEN:
            words += ["--dev-bind", "/dev/null", path]
        for path in (*_HIDDEN_FOLDERS, "/proc/1"):
            words += ["--perms", "0555", "--tmpfs", path]
        for name, content in _FIRST.items():
            fd = str(fds.memory(content))
            words += ["--perms", "0444", "--file", fd, f"/proc/1/{name}"]
        for path in (*_HIDDEN_FOLDERS, "/proc/1"):
            words += ["--remount-ro", path]
        words += ["--dev", "/dev"]
        words += ["--dev-bind", self.pts, "/dev/pts"]
        words += ["--perms", "1777", "--size", str(_SHM_BYTES), "--tmpfs", "/dev/shm"]
        words += ["--remount-ro", "/dev"]
        words += ["--perms", "0755", "--size", str(_SYS_BYTES), "--tmpfs", "/sys"]
        words += ["--ro-bind-try", _CPUS, _CPUS, "--remount-ro", "/sys"]
        return words


@dataclasses.dataclass(frozen=True)
class Wall:
    """Bubblewraps without network where an episode's file systems are."""

    start: Sequence[str]  # of a command line; ends with bubblewrap's path
    seccomp: bytes  # filter of system calls, empty where there is none

    def words(
        self,
        mounts: Mounts,
        fds: Descriptors,
        *,
        namespaces: Sequence[str],
        capabilities: Sequence[str],
        environment: Mapping[str, str | bytes],
    ) -> list[str | bytes]:
        """A command line without the program; makes the descriptors that it names.

        `namespaces` are options of bubblewrap for users and processes, `capabilities`
        what root inside may.
        """
        words: list[str | bytes] = [*self.start, "--unshare-net", "--unshare-ipc"]
        words += ["--unshare-uts", "--unshare-cgroup-try", "--hostname", "box"]
        words += ["--uid", "0", "--gid", "0", "--cap-drop", "ALL"]
        for name in capabilities:
            words += ["--cap-add", f"CAP_{name}"]
        words += ["--chdir", "/", "--clearenv", *namespaces]
        for name, value in environment.items():
            words += ["--setenv", name, value]
        words += mounts.words(fds)
        if self.seccomp:
            words += ["--seccomp", str(fds.memory(self.seccomp))]
        return words
