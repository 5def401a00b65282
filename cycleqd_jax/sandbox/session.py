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
import sys
import weakref
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox import permission
from cycleqd_jax.sandbox.gate import Gate
from cycleqd_jax.sandbox.seccomp import deny_filter
from cycleqd_jax.sandbox.session_connection import START_S, Session
from cycleqd_jax.sandbox.session_messages import receive
from cycleqd_jax.sandbox.session_server import FIRST_UID

_SYSTEM_PYTHON = "/usr/bin/python3"
_MOST_UNREADABLE = 64


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
class Root:
    """What a session's root file system is made of.

    Attributes:
      overlay: whether the programs of the system can be changed, for the session only;
        else /usr/bin and the like are read-only.
      image: a folder with a root file system, or None for the machine's own programs.
    """

    overlay: bool = False
    image: str | None = None


DEFAULT_LIMITS = SessionLimits()
PLAIN_ROOT = Root()


class Sessions:
    """Starts sessions, at most `slots` at once; more have to wait.

    Args:
      slots: at least 1.
      limits: of each.

    Raises:
      BadInputError: the machine does not permit them; says what to do.
    """

    def __init__(self, slots: int, limits: SessionLimits = DEFAULT_LIMITS):
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
    async def open(self, root: Root = PLAIN_ROOT) -> AsyncIterator["Session"]:
        """Starts a session, and ends it with all that is in it.

        Raises:
          SandboxError: it could not be started.
        """
        async with self._gate.enter() as slot:
            bare = root.image is None and self._python is not None
            python = "/usr/local/bin" if bare else "/usr/bin"
            session = Session(self._request(slot, root), python)
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

    def check(self, root: Root = PLAIN_ROOT) -> None:
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
                sock.settimeout(START_S)
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


def _remedy(said: str, root: Root) -> str:
    """What to do where a session does not come up."""
    if root.overlay and ("overlay" in said or "cannot be mapped" in said):
        return (
            "choose the backend host, or start as root on Linux 5.19 or later with "
            "/usr on a file system like ext4, xfs or btrfs, or give as image a folder "
            "whose files belong to the user who starts it"
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


def _python_prefix() -> str | None:
    """The folder of our own Python, for machines whose /usr has none."""
    if os.path.exists(_SYSTEM_PYTHON) or sys.base_prefix.startswith("/usr"):
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
