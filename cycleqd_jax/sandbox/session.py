"""Sessions: a small machine for one episode, in which several commands run in turn.

`Sessions` starts them, each with an own user, process, mount, network, IPC, UTS and
cgroup namespace, a root file system in memory that can be written to, and a trusted
process 1 (`session_supervisor`). A `Session` runs scripts, types into one shell that
lives as long as the episode, and judges: then nothing of the episode runs any more, and
shell, tools and configuration come from where the episode could not change them
(`session_repair`). `docs/sandbox.md` says what this keeps out.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import resource
import socket
import struct
import sys
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox import permission
from cycleqd_jax.sandbox.gate import Gate
from cycleqd_jax.sandbox.seccomp import deny_filter
from cycleqd_jax.sandbox.session_server import FIRST_UID
from cycleqd_jax.sandbox.session_skeleton import PATH
from cycleqd_jax.sandbox.session_supervisor import receive

_SYSTEM_PYTHON = "/usr/bin/python3"
_START_S = 60.0  # for one start on a busy machine; it takes milliseconds
_GRACE = 20.0  # a limit by the session's clock is at most so many times longer
_MOST_UNREADABLE = 64
_MAX_REPLY_BYTES = 2**22
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "HOSTNAME": "box"}
_TRUSTED = {
    "PYTHONNOUSERSITE": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclasses.dataclass(frozen=True)
class SessionLimits:
    """What one session may use, all its processes together unless said otherwise.

    Attributes:
      cpu_s: seconds of processor time, from start to end.
      memory_bytes: what the processes hold, and the address space of each.
      processes: how many there may be at once.
      open_files: of one process.
      file_bytes: of one file.
      scratch_bytes: of all files.
      scratch_entries: number of files and folders.
    """

    cpu_s: float = 120.0
    memory_bytes: int = 2**30
    processes: int = 128
    open_files: int = 256
    file_bytes: int = 2**26
    scratch_bytes: int = 2**27
    scratch_entries: int = 2**15


@dataclasses.dataclass(frozen=True)
class ScriptRun:
    """What became of a script.

    Attributes:
      status: exit status, or minus the signal that ended it.
      ended: done, limit, cpu or memory.
      output: standard output and error output as they came, its first 64 KiB.
    """

    status: int
    ended: str
    output: bytes


@dataclasses.dataclass(frozen=True)
class Typed:
    """What became of something typed into the shell.

    Attributes:
      ended: done, limit (its time was up), exited (the shell has ended), cpu, memory.
      output: what was printed, its first 64 KiB.
      valid: whether all that was printed is UTF-8.
    """

    ended: str
    output: bytes
    valid: bool


@dataclasses.dataclass(frozen=True)
class Root:
    """What a session's root file system is made of.

    Attributes:
      overlay: whether the programs of the system can be changed, for the session only;
        else /usr/bin and the like are read-only.
      image: a folder with a root file system, or None for the machine's own programs.
    """

    overlay: bool = False
    image: str | None = None


class Sessions:
    """Starts sessions, at most `slots` at once; more have to wait.

    Args:
      slots: at least 1.
      limits: of each.

    Raises:
      BadInputError: the machine does not permit them; says what to do.
    """

    def __init__(self, slots: int, limits: SessionLimits = SessionLimits()):
        if slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        self._limits = limits
        self._gate = Gate(slots)
        self._as_root = is_root()
        self._server: _Server | None = None
        self._python = _python_prefix()
        self._seccomp = deny_filter().decode("latin-1")
        self._closed = False
        self._unreadable: list[str] | None = [] if self._as_root else None

    @property
    def many_users(self) -> bool:
        """Whether a session has more users than root."""
        return self._as_root

    @contextlib.asynccontextmanager
    async def open(self, root: Root = Root()) -> AsyncIterator["Session"]:
        """Starts a session, and ends it with all that is in it.

        Raises:
          SandboxError: it could not be started.
        """
        async with self._gate.enter() as slot:
            session = Session(self._request(slot, root))
            try:
                await session.started()
                yield session
            finally:
                await session.close()

    async def close(self) -> None:
        """Ends all sessions; none can be started any more."""
        self._closed = True
        server, self._server = self._server, None
        if server is not None:
            await asyncio.get_running_loop().run_in_executor(None, server.stop)

    def _running_server(self) -> "_Server":
        if self._closed:
            raise SandboxError("the sessions are closed; make new ones")
        if self._server is None or not self._server.alive():
            if self._server is not None:
                self._server.stop()
            self._server = _Server()
        return self._server

    def check(self, root: Root = Root()) -> None:
        """Starts a session, looks whether it comes up, and ends it.

        Raises:
          BadInputError: it does not; says why and what to do.
        """
        if root.overlay and root.image is None and not self._as_root:
            raise BadInputError(
                "sandbox: the machine's own programs can only be changed for a session "
                f"where it is started as root; {_remedy('overlay', root)}"
            )
        try:
            with self._request(0, root) as sock:
                sock.settimeout(_START_S)
                reply = receive(sock)
        except (SandboxError, OSError) as error:
            reply = {"error": str(error)}
        if reply is None:
            reply = {"error": "it ended at once"}
        if "error" in reply:
            said = str(reply["error"])
            raise BadInputError(
                f"sandbox: a session could not be started here ({said}); "
                f"{_remedy(said, root)}"
            )

    def _request(self, slot: int, root: Root) -> socket.socket:
        """Asks for a session; our end of its socket."""
        if self._unreadable is None:
            self._unreadable = _unreadable_folders("/usr")
        server = self._running_server()
        request = {
            "slot": slot,
            "as_root": self._as_root,
            "overlay": root.overlay or root.image is not None,
            "image": root.image is not None,
            "python": self._python,
            "unreadable": self._unreadable,
            "host_name": "box",
            "seccomp": self._seccomp,
            "scratch_bytes": self._limits.scratch_bytes,
            "scratch_entries": self._limits.scratch_entries,
            "limits": {
                "cpu_s": self._limits.cpu_s,
                "memory_bytes": self._limits.memory_bytes,
                "processes": self._limits.processes,
                "rlimits": _rlimits(self._limits),
            },
        }
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        fds = [theirs.fileno()]
        image_fd = None
        try:
            if root.image is not None:
                image_fd = os.open(root.image, os.O_RDONLY | os.O_DIRECTORY)
                fds.append(image_fd)
            server.send(json.dumps(request).encode(), fds)
        except OSError as error:
            ours.close()
            raise SandboxError(f"a session could not be started ({error})") from error
        finally:
            theirs.close()
            if image_fd is not None:
                os.close(image_fd)
        return ours


class _Server:
    """The process that starts sessions; ends at the latest with this object."""

    def __init__(self):
        package = str(Path(__file__).parents[2])
        code = (
            f"import sys; sys.path.insert(0, {package!r}); "
            "from cycleqd_jax.sandbox import session_server; session_server.main()"
        )
        python = _interpreter()
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            self._pid = os.posix_spawn(
                python,
                [python, "-I", "-S", "-c", code],
                {},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                    (os.POSIX_SPAWN_DUP2, null, 1),
                ],
                setsid=True,  # Ctrl-C is for us alone
            )
        except BaseException:
            control.close()
            raise
        finally:
            theirs.close()
            os.close(null)
        fd = control.detach()
        self._control = fd
        self.stop = weakref.finalize(self, _stop_server, fd, self._pid)

    def alive(self) -> bool:
        """Whether it runs still."""
        ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._pid, ended) is None

    def send(self, request: bytes, fds: Sequence[int]) -> None:
        """Hands it a request with descriptors."""
        with socket.socket(fileno=os.dup(self._control)) as control:
            socket.send_fds(control, [request], fds)


def _stop_server(fd: int, pid: int) -> None:
    os.close(fd)
    os.waitpid(pid, 0)


class Session:
    """One session; made by `Sessions.open`.

    Args:
      sock: to its supervisor.
    """

    def __init__(self, sock: socket.socket):
        sock.setblocking(False)
        self._sock = sock

    async def started(self) -> None:
        """Waits for the supervisor's first word."""
        await self._receive(_START_S)

    async def script(
        self,
        language: str,
        code: str,
        arguments: Sequence[str | bytes] = (),
        *,
        limit_s: float,
        judging: bool = False,
        read_only: bool = False,
        alone: bool = False,
        extra: Mapping[str, str] = {},
    ) -> ScriptRun:
        """Runs a script on its own, in `/`.

        Args:
          language: bash or python.
          code: its text.
          arguments: given to it.
          limit_s: seconds, by the session's clock.
          judging: after `judge`: with programs and configuration that the episode
            cannot have changed.
          read_only: nothing but /tmp and /run can be changed.
          alone: what `judge` has stopped is killed first.
          extra: variables of its environment.
        """
        words = {"bash": ["-c", code, "--"], "python": ["-I", "-c", code]}[language]
        name = {"bash": "bash", "python": "python3"}[language]
        if language == "python" and not judging:
            words = words[1:]
        folder = "/bin" if language == "bash" else python_folder()
        reply = await self._ask(
            limit_s,
            do="run",
            argv=[f"{folder}/{name}", name, *map(_bytes_as_text, (*words, *arguments))],
            env={**ENVIRONMENT, **(_TRUSTED if judging else {}), **extra},
            limit_s=limit_s,
            judging=judging,
            read_only=read_only,
            alone=alone,
        )
        output = reply["output"].encode("latin-1")
        return ScriptRun(int(reply["status"]), str(reply["ended"]), output)

    async def start_shell(self, *, terminal: bool, limit_s: float) -> Typed:
        """Starts the login shell that stays; what it printed until it was ready."""
        env = {**ENVIRONMENT, **({"TERM": "xterm"} if terminal else {})}
        return _typed(
            await self._ask(
                limit_s, do="shell", env=env, terminal=terminal, limit_s=limit_s
            )
        )

    async def type(self, code: str, *, limit_s: float) -> Typed:
        """Types into the shell, and waits until it is ready again or out of time."""
        data = _bytes_as_text(code)
        return _typed(await self._ask(limit_s, do="type", code=data, limit_s=limit_s))

    async def remember(self) -> None:
        """Notes what the users' login shells are before the episode begins."""
        await self._ask(0.0, do="remember")

    async def judge(self, *, freeze: bool = False) -> str | None:
        """Ends the episode's own part; only scripts with `judging` may follow.

        Args:
          freeze: stop its processes for good instead of killing them, for scripts
            that look at what runs.

        Returns:
          Why it cannot be judged (the episode has destroyed the system), or None.
        """
        return (await self._ask(0.0, do="judge", freeze=freeze))["tampered"]

    async def close(self) -> None:
        """Kills all that runs and waits until it is gone."""
        if self._sock.fileno() < 0:
            return
        loop = asyncio.get_running_loop()
        try:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_START_S):
                with contextlib.suppress(OSError):
                    while await loop.sock_recv(self._sock, 1 << 16):
                        pass
        except TimeoutError:
            pass  # process 1 is killed with the server at the latest
        finally:
            self._sock.close()

    async def _ask(self, within_s: float, /, **message: object) -> dict:
        data = json.dumps(message).encode("ascii")
        try:
            await asyncio.get_running_loop().sock_sendall(
                self._sock, struct.pack("!I", len(data)) + data
            )
        except OSError as error:
            raise SandboxError(f"the session has ended ({error})") from error
        return await self._receive(_START_S + _GRACE * within_s)

    async def _receive(self, patience_s: float) -> dict:
        try:
            async with asyncio.timeout(patience_s):
                (size,) = struct.unpack("!I", await self._exactly(4))
                if size > _MAX_REPLY_BYTES:
                    raise SandboxError(f"a session's reply has {size} bytes")
                reply = json.loads(await self._exactly(size))
        except TimeoutError as error:
            raise SandboxError(
                f"a session has not answered within {patience_s:g} s; the machine is "
                "too busy, or process 1 of the session was stopped"
            ) from error
        if "error" in reply:
            raise SandboxError(str(reply["error"]))
        return reply

    async def _exactly(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        parts = []
        while size:
            try:
                part = await loop.sock_recv(self._sock, size)
            except OSError as error:
                raise SandboxError(f"the session has ended ({error})") from error
            if not part:
                raise SandboxError("the session has ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _bytes_as_text(word: str | bytes) -> str:
    """Bytes as they travel; what cannot be encoded becomes question marks."""
    data = word if isinstance(word, bytes) else word.encode("utf-8", "replace")
    return data.decode("latin-1")


def _typed(reply: dict) -> Typed:
    text = reply["text"].encode("latin-1")
    return Typed(str(reply["ended"]), text, bool(reply["valid"]))


def _remedy(said: str, root: Root) -> str:
    """What to do where a session does not come up."""
    if root.overlay and ("overlay" in said or "cannot be mapped" in said):
        return (
            "choose the backend host, or start as root on Linux 5.19 or later with /usr "
            "on a file system like ext4, xfs or btrfs, or give as image a folder whose "
            "files belong to the user who starts it"
        )
    return permission.remedy(said, FIRST_UID)


def is_root() -> bool:
    """Whether we may give each session user ids of its own."""
    first = Path("/proc/self/uid_map").read_text().split()
    return os.geteuid() == 0 and first[:2] == ["0", "0"]


def _unreadable_folders(top: str) -> list[str]:
    """Folders below `top` that we may not list; they would be noise in a session."""
    found: list[str] = []
    for _ in os.walk(top, onerror=lambda error: found.append(error.filename)):
        pass
    return found[:_MOST_UNREADABLE]


def _interpreter() -> str:
    """The Python that the server runs with: ours, if we may still start it."""
    if os.access(sys.executable, os.X_OK) or not os.access(_SYSTEM_PYTHON, os.X_OK):
        return sys.executable
    return _SYSTEM_PYTHON


def python_folder() -> str:
    """Where sessions find python3."""
    return "/usr/bin" if os.path.exists(_SYSTEM_PYTHON) else "/usr/local/bin"


def _python_prefix() -> str | None:
    """The folder of our own Python, for machines whose /usr has none."""
    if python_folder() == "/usr/bin" or sys.base_prefix.startswith("/usr"):
        return None
    return os.path.realpath(sys.base_prefix)


def _rlimits(limits: SessionLimits) -> list[tuple[int, int, int]]:
    """(Number, soft, hard) for each of the session's processes."""
    same = {
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_NPROC: limits.processes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_CPU: int(limits.cpu_s) + 1,
    }
    return [(number, value, value) for number, value in same.items()]
