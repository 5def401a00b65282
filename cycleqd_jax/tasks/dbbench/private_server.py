"""A private MariaDB: it starts when it is first needed and ends with the run.

It runs in a bubblewrap sandbox, as an unprivileged user, without network. All its files
are in the sandbox's own file system, in memory, and it is reached through a Unix socket
there. `private_inside` sets it up inside and ends it as soon as this process ends.
"""

import contextlib
import dataclasses
import os
import re
import secrets
import socket
import subprocess
import threading
import time
from pathlib import Path

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.descriptors import Descriptors
from cycleqd_jax.sandbox.host import inspect_host
from cycleqd_jax.sandbox.process import end_at_once
from cycleqd_jax.tasks.dbbench import private_inside as inside
from cycleqd_jax.tasks.dbbench.address import Address
from cycleqd_jax.tasks.dbbench.mariadb_program import USER, find_program

_FILE_BYTES = 2**30  # of all its files, which are in memory; about 50 MB at first
_MEMORY_BYTES = 2**30  # beside its files; about 200 MB at first
_MOST_FAILURES = 20  # of one run
_START_S = 120.0  # it takes less than a second on an idle machine
_STOP_S = 10.0
_UID_SLOT = 3000  # started as root: a user id that no worker of a sandbox has
_CHATTER = re.compile(r"\[(?:Note|Warning)\]|^\s*$")
_SCRIPT = "/etc/sandbox/private_inside.py"


@dataclasses.dataclass(frozen=True)
class _Running:
    """A server that was started.

    Attributes:
      process: bubblewrap.
      control: a socket whose closing ends the sandbox.
      folder: descriptor of the server's folder.
      address: of the server.
    """

    process: subprocess.Popen
    control: socket.socket
    folder: int
    address: Address

    def log(self) -> str:
        """The last errors in the server's log."""
        path = f"/proc/self/fd/{self.folder}/{inside.LOG}"
        with contextlib.suppress(OSError), open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 2**16))
            lines = file.read(2**16).decode(errors="replace").splitlines()
            wrong = [line for line in lines if not _CHATTER.search(line)]
            return "; ".join(wrong[-3:])[-400:]
        return ""

    def end(self) -> None:
        """Ends the server with everything in its sandbox."""
        with contextlib.suppress(OSError):
            self.control.send(b"x")  # a fork of ours may keep the socket open
        self.control.close()
        os.close(self.folder)
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            end_at_once(self.process)


class PrivateServer:
    """A MariaDB server of this process; see `servers.Server`."""

    ours = True

    def __init__(self):
        """Does not start the server yet."""
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._failures = 0
        self._said = ""  # by the last one that failed

    def version(self) -> str:
        """The kind and version of the server, like "mariadb 10.11".

        Raises:
          BadInputError: MariaDB is not installed.
        """
        return f"mariadb {find_program().version}"

    def address(self) -> Address:
        """The address; starts the server if it does not run.

        Raises:
          BadInputError: MariaDB or bubblewrap is missing or not permitted.
          SandboxError: it does not start, or has failed too often.
        """
        with self._lock:
            if self._running is not None and self._running.process.poll() is not None:
                self._end(failed=True)
            if self._failures > _MOST_FAILURES:
                raise SandboxError(
                    f"The private MariaDB failed {self._failures} times and is not "
                    f"started again; it said: {self._said}"
                )
            if self._running is None:
                self._running = _start()
            return self._running.address

    def restart(self, *, failed: bool) -> None:
        """Ends the server; the next `address` starts a new one.

        Args:
          failed: whether it died or hangs; allowed a few times only.
        """
        with self._lock:
            self._end(failed=failed)

    def free_bytes(self) -> int | None:
        """Free bytes for its files; None if it does not run."""
        with self._lock:
            if self._running is None:
                return None
            file_system = os.statvfs(self._running.folder)
            return file_system.f_bavail * file_system.f_frsize

    def close(self) -> None:
        """Ends the server; a later `address` starts a new one."""
        self.restart(failed=False)

    def _end(self, *, failed: bool) -> None:
        running, self._running = self._running, None
        if running is not None:
            if failed:
                self._failures += 1
                self._said = running.log()
            running.end()


def _start() -> _Running:
    program, host = find_program(), inspect_host(1)
    password = secrets.token_hex(16)
    control, theirs = socket.socketpair()
    with Descriptors() as fds, theirs:
        errors = fds.memory(b"")
        sql = fds.memory(program.setup(password))
        handed = (theirs.fileno(), fds.process(os.getpid()), sql)
        script = fds.memory(Path(inside.__file__).read_bytes())
        seccomp = fds.memory(host.seccomp) if host.seccomp else None
        command = host.command(
            uid=host.uid(_UID_SLOT),
            scratch_bytes=_FILE_BYTES,
            files={_SCRIPT: script},
            seccomp=seccomp,
        )
        place = command.index("--proc")  # where the root can still be written to
        command[place:place] = program.mounts
        command += ["--", *host.drop_capability, host.python, "-I", "-S", _SCRIPT]
        process = subprocess.Popen(
            [*command, *map(str, handed), str(_MEMORY_BYTES), *program.command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=(*handed, script, *(() if seccomp is None else (seccomp,))),
            env={},
            cwd="/",
            start_new_session=True,  # Ctrl-C is for us alone
        )
        theirs.close()
        try:
            return _until_it_listens(process, control, password)
        except BaseException as error:
            control.close()
            if process.poll() is None:
                end_at_once(process)
            if not isinstance(error, _NotStartedError):
                raise
            said = f"{os.pread(errors, 1000, 0).decode(errors='replace')} {error}"
            raise SandboxError(
                f"The private MariaDB did not start; it said: {said.strip()}"
            ) from None


class _NotStartedError(Exception):
    """The server ended, or did not listen in time; the text is its log's end."""


def _until_it_listens(
    process: subprocess.Popen, control: socket.socket, password: str
) -> _Running:
    """Waits until the server accepts connections."""
    deadline = time.monotonic() + _START_S
    control.settimeout(_START_S)
    try:
        _, folders, _, _ = socket.recv_fds(control, 1, 1)
    except OSError as error:
        raise _NotStartedError(str(error)) from error
    if not folders:
        raise _NotStartedError("the sandbox ended")
    path = f"/proc/self/fd/{folders[0]}/{inside.SOCKET}"
    address = Address(USER, password, unix_socket=path, name="private MariaDB")
    running = _Running(process, control, folders[0], address)
    while True:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(path)
            return running
        if process.poll() is not None or time.monotonic() > deadline:
            said = running.log()
            os.close(running.folder)
            raise _NotStartedError(said or "nothing")
        time.sleep(0.01)
