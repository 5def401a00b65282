"""Bubblewraps that we talk to, and those on the file systems of an episode."""

import asyncio
import contextlib
import dataclasses
import marshal
import os
import resource
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.base import KEPT_BYTES, ScriptRun, ShellLimits
from cycleqd_jax.sandbox.descriptors import Descriptors
from cycleqd_jax.sandbox.process import first_process, until_end

START_S = 60.0  # for one start on a busy machine; it takes milliseconds
_BUFFER = 2**20  # bytes of an answer that are read ahead
_GRACE = 20.0  # a limit by the episode's clock is at most so many times longer
_SHM_BYTES = 2**20
_SYS_BYTES = 2**16
# What root of a container may by default.
_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE "
    "SYS_CHROOT AUDIT_WRITE SETFCAP"
).split()
_OURS = "SYS_PTRACE"  # process 1 alone has it
EPISODE = (*_CAPABILITIES, _OURS)
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


class World:
    """A bubblewrap in which `_first` is process 1.

    Args:
      process: bubblewrap.
      sock: to process 1.
      info_fd: bubblewrap says here what it made; closed with this object.
      said_fd: what it wrote to its error output; closed with this object.

    Attributes:
      pid: of bubblewrap.
    """

    def __init__(
        self, process: subprocess.Popen, sock: socket.socket, info_fd: int, said_fd: int
    ):
        self._process = process
        self.pid = process.pid
        self._sock = sock
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._info_fd = info_fd
        self._said_fd = said_fd

    @classmethod
    def start(
        cls,
        launch: Callable[[Sequence[str], Sequence[int], int, int], subprocess.Popen],
        python: str,
        code: bytes,
        settings: Mapping[str, object],
    ) -> "World":
        """Starts one; `ready` waits for it.

        Args:
          launch: starts bubblewrap; gets the words of process 1, descriptors to hand
            to it, one for what bubblewrap made, and one for what is printed.
          python: what runs process 1, inside.
          code: of process 1, see `host`.
          settings: for process 1, see `_first.World`.
        """
        # Files, no pipes: had we been killed, bubblewrap would end by a signal as it
        # writes, and leave its child waiting for ever.
        with contextlib.ExitStack() as stack:
            info, said = os.memfd_create("info"), os.memfd_create("said")
            stack.callback(os.close, info)
            stack.callback(os.close, said)
            fds = stack.enter_context(Descriptors())
            sock, program, inside = first_process(fds, python, code, settings)
            stack.callback(sock.close)
            process = launch(program, inside, info, said)
            fds.close(*inside)
            stack.pop_all()  # from here on they are the world's
        return cls(process, sock, info, said)

    async def ready(self) -> None:
        """Waits until process 1 serves."""
        self._streams = await asyncio.open_connection(sock=self._sock, limit=_BUFFER)
        await self._reply(START_S, 0)

    def namespaces(self, fds: Descriptors) -> tuple[int, int]:
        """Descriptors of its namespaces of users and of processes."""
        # Bubblewrap wrote it before it started process 1.
        said = os.pread(self._info_fd, 4096, 0).decode()
        first = int(said.partition('"child-pid": ')[2].partition(",")[0])
        try:
            made = [
                os.open(f"/proc/{first}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
                for kind in ("user", "pid")
            ]
        except OSError as error:
            raise SandboxError(
                f"the episode's process 1 has ended ({error})"
            ) from error
        fds.take(*made)
        return made[0], made[1]

    async def ask(
        self, within_s: float, /, *, most: int = KEPT_BYTES, **message: object
    ) -> tuple[str, int, bool, list[bytes]]:
        """Asks process 1 for something.

        Args:
          within_s: seconds that it may take, by the clock of the world.
          most: bytes of all parts of the answer.
          **message: see `_first`.

        Returns:
          (how it ended, status, whether its output is UTF-8, parts of the answer).

        Raises:
          SandboxError: it has ended, or does not answer.
        """
        data = marshal.dumps(message, 2)
        self._streams[1].write(len(data).to_bytes(4, "big") + data)
        return await self._reply(START_S + _GRACE * within_s, most)

    async def _reply(
        self, patience_s: float, most: int
    ) -> tuple[str, int, bool, list[bytes]]:
        reader, writer = self._streams
        try:
            async with asyncio.timeout(patience_s):
                await writer.drain()
                header = await reader.readuntil(b"\n")
                ended, *numbers = header.decode().split()
                status, valid, count = map(int, numbers)
                parts: list[bytes] = []
                for _ in range(count):
                    size = int.from_bytes(await reader.readexactly(4), "big")
                    most -= size
                    if most < 0:
                        raise SandboxError("a sandbox says more than was asked for")
                    parts.append(await reader.readexactly(size))
        except TimeoutError as error:
            raise SandboxError(
                f"a sandbox has not answered within {patience_s:g} s; the computer is "
                "too busy, or process 1 there was stopped"
            ) from error
        except (EOFError, OSError, ValueError, asyncio.LimitOverrunError) as error:
            said = os.pread(self._said_fd, 4000, 0).decode(errors="replace").strip()
            why = said.splitlines()[-1] if said else error
            raise SandboxError(f"the sandbox has ended ({why})") from error
        if ended == "failed":
            raise SandboxError(parts[0].decode(errors="replace"))
        return ended, status, bool(valid), parts

    def stop(self) -> None:
        """Ends it soon, with all that is in it."""
        # Closing is not enough: a fork of ours may keep the socket open.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Ends it with all that is in it, and waits for that."""
        try:
            await until_end(self._process, self.stop, 0)
        finally:
            if self._streams is not None:
                self._streams[1].transport.abort()
            self._sock.close()
            os.close(self._said_fd)
            os.close(self._info_fd)

    async def run(
        self,
        argv: Sequence[str | bytes],
        environment: Mapping[str, str],
        limit_s: float,
        *,
        alone: bool,
    ) -> ScriptRun:
        """Runs a command in it.

        Args:
          argv: the command.
          environment: its variables.
          limit_s: seconds by the world's clock.
          alone: whether nothing else runs there, before or after.
        """
        ended, status, _, parts = await self.ask(
            limit_s,
            do="run",
            argv=[encode(word) for word in argv],
            env=dict(environment),
            limit_s=limit_s,
            alone=alone,
        )
        return ScriptRun(status, ended, parts[0])


def encode(word: str | bytes) -> bytes:
    """A word as bytes; what cannot be encoded becomes question marks."""
    return word if isinstance(word, bytes) else word.encode("utf-8", "replace")


def limited(drop: Sequence[str], limits: Mapping[str, int]) -> list[str]:
    """A command line that drops the capability of process 1 and sets limits.

    Args:
      drop: words that do the first; the last is `--`.
      limits: name of an option of `prlimit` -> value. Lower limits of our own stay.
    """
    words = [*drop, "/usr/bin/prlimit"]
    for name, value in limits.items():
        most = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
        value = value if most < 0 else min(value, most)
        words.append(f"--{name}={value}:{value}")
    return [*words, "--"]


def episode_settings(limits: ShellLimits, setpriv: str) -> dict[str, object]:
    """The settings of process 1 of an episode.

    Args:
      limits: of the episode.
      setpriv: path of the command.
    """
    drop = [setpriv, "--inh-caps=-all", "--ambient-caps=-all"]
    drop += [f"--bounding-set=-{_OURS.lower()}", "--"]
    same = {
        "as": limits.memory_bytes,
        "nproc": limits.processes + 1,
        "nofile": limits.open_files,
        "fsize": limits.file_bytes,
        "core": 0,
        "memlock": 0,
        "msgqueue": 0,
        "cpu": int(limits.cpu_s) + 1,
    }
    return {
        "limits": {
            "cpu_s": limits.cpu_s,
            "memory_bytes": limits.memory_bytes,
            "folders": (),
            "entries": 0,
        },
        "kept": limits.processes // 2,
        "drop": limited(drop, same),
    }
