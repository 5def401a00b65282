"""The process that holds the file systems of a run's episodes, as the library sees it.

Started by `unshare`, in a mount namespace of its own, and where we are no root in a
user namespace too, it mounts what `_holder` says. `enter` is the start of a command
line that runs there. Nothing is written to a folder of this machine, so a run that is
killed leaves nothing.
"""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.process import start

FIRST_UID = 1_900_000_000  # of a range that nobody gives out
UIDS = 65536  # of an episode
_RUNS, _SLOTS = 30, 1000  # ranges for so many runs at once, and of each
_PATIENCE_S = 60.0  # for an answer, which takes milliseconds
_PLACES = ("/mnt", "/media", "/srv", "/opt", "/tmp")  # one of them is covered, for us
_SYSTEM_PYTHON = "/usr/bin/python3"
_MOST_UNREADABLE = 64
_CODE = """
import sys
sys.path.insert(0, sys.argv[1])
from cycleqd_jax.sandbox import _holder
import json
_holder.main(int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
"""


class Holder:
    """See the module. It starts with the first request.

    Args:
      as_root: whether we are root, and give each episode user ids of its own.
      python: (folder, place inside) of a Python that is not the system's, or None.
    """

    def __init__(self, as_root: bool, python: tuple[str, str] | None = None):
        self._as_root = as_root
        self._subordinate = not as_root and has_subordinate_ids()
        self._python = python
        self._process: subprocess.Popen | None = None
        self._control: socket.socket | None = None
        self._said: int | None = None  # what the process wrote when it failed
        self._userns: dict[int, int] = {}
        self._stop = lambda: None

    def enter(self, slot: int) -> list[str]:
        """Start of a command line that runs where the file systems are, as `owner`."""
        words = ["nsenter", "--target", str(self._process.pid), "--mount"]
        if not self._as_root:
            return [*words, "--user", "--preserve-credentials", "--"]
        uid = self.owner(slot)
        return [*words, f"--setuid={uid}", f"--setgid={uid}", "--"]

    def owner(self, slot: int) -> int:
        """The user id of an episode's root, as the holder calls it."""
        if not self._as_root:
            return 0
        return FIRST_UID + (os.getpid() % _RUNS * _SLOTS + slot % _SLOTS) * UIDS

    async def user_namespace(self, slot: int, processes: int) -> int | None:
        """A descriptor of an episode's user namespace; None if it shall make its own.

        Args:
          slot: of the episode; the namespace is kept for the next one.
          processes: most at once, of all its users.

        Raises:
          SandboxError: it could not be made.
        """
        if not self._as_root and not self._subordinate:
            return None
        await self.ask("ready")
        if slot not in self._userns:
            self._userns[slot] = self._make_user_namespace(slot, processes)
        return self._userns[slot]

    def _make_user_namespace(self, slot: int, processes: int) -> int:
        uid = self.owner(slot)
        # The limit at this moment bounds all that is in the namespace, together.
        limit = ["prlimit", f"--nproc={processes}:{processes}", "--"]
        waits = ["unshare", "--user", "--", "sh", "-c", "echo; read x"]
        with subprocess.Popen(
            [*self.enter(slot), *limit, *waits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            if process.stdout.readline() != b"\n":
                said = process.stderr.read().decode(errors="replace").strip()
                raise SandboxError(f"no user namespace could be made: {said}")
            # Two rows: without privilege root and the others are two rows outside, too.
            rows = f"0 {uid} 1\\n1 {uid + 1} {UIDS - 1}\\n"
            files = (f"/proc/{process.pid}/{name}_map" for name in ("uid", "gid"))
            write = "".join(f"printf '{rows}' > {file} && " for file in files) + ":"
            us = ["sh", "-c"] if self._as_root else [*self.enter(slot), "sh", "-c"]
            subprocess.run([*us, write], check=True)
            return os.open(f"/proc/{process.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)

    async def ask(self, do: str, *, userns: int | None = None, **words: Any) -> Any:
        """Asks for something, see `_holder.Mounts`.

        Raises:
          SandboxError: it could not be done.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            fds = [theirs.fileno(), *(() if userns is None else (userns,))]
            try:
                message = json.dumps({"do": do, **words}).encode()
                socket.send_fds(self._control, [message], fds)
            except OSError as error:
                raise SandboxError(f"{error}; {self._last_words()}") from error
            finally:
                theirs.close()
            reply = b""
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    while part := await loop.sock_recv(ours, 1 << 16):
                        reply += part
            except TimeoutError as error:
                raise SandboxError(f"no answer to {do}; the machine hangs") from error
        if not reply:
            raise SandboxError(self._last_words())
        answer = json.loads(reply)
        if "error" in answer:
            raise SandboxError(answer["error"])
        return answer["result"]

    async def forget(self, slot: int) -> None:
        """Takes away all of an episode, unless all is gone anyway."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(SandboxError):
                await self.ask("close", slot=slot)

    def _start(self) -> None:
        self.close()
        settings = {
            "place": next(place for place in _PLACES if os.path.isdir(place)),
            "as_root": self._as_root,
            "python": self._python,
            "unreadable": [] if self._as_root else _unreadable_folders("/usr"),
        }
        user = [] if self._as_root else ["--user", "--map-root-user"]
        user += ["--map-auto"] if self._subordinate else []
        parent = os.pidfd_open(os.getpid())
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        said = os.memfd_create("said")
        passed = (theirs.fileno(), parent)
        package = str(Path(__file__).parents[2])
        words = [package, *map(str, passed), json.dumps(settings)]
        unshare = ["unshare", *user, "--mount", "--propagation", "private", "--"]
        try:
            python = [_interpreter(), "-I", "-S", "-c", _CODE]
            self._process = start([*unshare, *python, *words], passed, said)
        except BaseException:
            control.close()
            os.close(said)
            raise
        finally:
            theirs.close()
            os.close(parent)
        self._control, self._said = control, said
        # It may also have to end where nobody closes us.
        self._stop = weakref.finalize(self, _end, control, said, self._process)

    def _last_words(self) -> str:
        text = os.pread(self._said, 2000, 0).decode(errors="replace").strip()
        line = text.splitlines()[-1] if text else "it ended without a word"
        return f"the process that holds file systems has failed: {line}"

    def close(self) -> None:
        """Ends it, and with it all that it holds."""
        self._stop()
        self._process = None
        for fd in self._userns.values():
            os.close(fd)
        self._userns.clear()


def _end(control: socket.socket, said: int, process: subprocess.Popen) -> None:
    with contextlib.suppress(OSError):
        control.shutdown(socket.SHUT_RDWR)
    control.close()
    os.close(said)
    process.wait()


def python_place(python: str) -> tuple[str, str] | None:
    """(Folder, place inside) of a Python outside /usr/bin; None for the system's."""
    if python == _SYSTEM_PYTHON:
        return None
    prefix = str(Path(python).parents[1])
    return prefix, "/opt/python" if prefix.startswith("/usr") else prefix


def has_subordinate_ids() -> bool:
    """True if `newuidmap` gives us enough ids for an episode with several users."""
    words = ["unshare", "--user", "--map-root-user", "--map-auto", "--"]
    done = subprocess.run([*words, "cat", "/proc/self/uid_map"], capture_output=True)
    counts = [int(line.split()[2]) for line in done.stdout.splitlines()]
    return done.returncode == 0 and sum(counts) >= UIDS


def _interpreter() -> str:
    """The Python that it runs with: ours, if we may still start it."""
    if os.access(sys.executable, os.X_OK) or not os.access(_SYSTEM_PYTHON, os.X_OK):
        return sys.executable
    return _SYSTEM_PYTHON


def _unreadable_folders(top: str) -> Sequence[str]:
    """Folders below `top` that we may not list."""
    found: list[str] = []
    for _ in os.walk(top, onerror=lambda error: found.append(error.filename)):
        pass
    return found[:_MOST_UNREADABLE]
