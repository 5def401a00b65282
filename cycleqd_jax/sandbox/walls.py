"""Walls of an episode: bubblewraps on its file systems, which `_holder` holds."""

import dataclasses
import os
import subprocess
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
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"  # folders that no episode can write to
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

    def words(self, fds: Descriptors) -> tuple[list[str], list[int]]:
        """Arguments of bubblewrap, and the descriptors that they name."""
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
        passed = []
        for name, content in _FIRST.items():
            passed.append(fds.memory(content))
            words += ["--perms", "0444", "--file", str(passed[-1]), f"/proc/1/{name}"]
        for path in (*_HIDDEN_FOLDERS, "/proc/1"):
            words += ["--remount-ro", path]
        words += ["--dev", "/dev"]
        words += ["--dev-bind", self.pts, "/dev/pts"]
        words += ["--perms", "1777", "--size", str(_SHM_BYTES), "--tmpfs", "/dev/shm"]
        words += ["--remount-ro", "/dev"]
        words += ["--perms", "0755", "--size", str(_SYS_BYTES), "--tmpfs", "/sys"]
        words += ["--ro-bind-try", _CPUS, _CPUS, "--remount-ro", "/sys"]
        return words, passed


@dataclasses.dataclass(frozen=True)
class Wall:
    """Starts bubblewraps where an episode's file systems are.

    Attributes:
      start: what a command line starts with; ends with bubblewrap's path.
      seccomp: filter of system calls, empty where there is none.
    """

    start: Sequence[str]
    seccomp: bytes

    def run(
        self,
        mounts: Mounts,
        program: Sequence[str | bytes],
        *,
        namespaces: Sequence[str],
        capabilities: Sequence[str],
        environment: Mapping[str, str | bytes],
        passed: Sequence[int],
        out: int,
    ) -> subprocess.Popen:
        """Starts a program without network, in a process group of its own.

        Args:
          mounts: what it sees.
          program: its words.
          namespaces: options of bubblewrap for users and processes.
          capabilities: what root inside may.
          environment: of the program.
          passed: descriptors that it gets, or that an option names.
          out: descriptor of both its outputs.
        """
        words: list[str | bytes] = [*self.start, "--unshare-net", "--unshare-ipc"]
        words += ["--unshare-uts", "--unshare-cgroup-try", "--hostname", "box"]
        words += ["--uid", "0", "--gid", "0", "--cap-drop", "ALL"]
        for name in capabilities:
            words += ["--cap-add", f"CAP_{name}"]
        words += ["--chdir", "/", "--clearenv", *namespaces]
        for name, value in environment.items():
            words += ["--setenv", name, value]
        with Descriptors() as fds:
            shown, named = mounts.words(fds)
            if self.seccomp:
                named.append(fds.memory(self.seccomp))
                shown += ["--seccomp", str(named[-1])]
            return subprocess.Popen(
                [*words, *shown, "--", *program],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=(*passed, *named),
                env={"PATH": PATH},
                cwd="/",
                start_new_session=True,
            )
