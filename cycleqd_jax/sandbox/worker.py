"""A trusted program that lives in a sandbox of its own and serves many requests.

Where a `Sandbox` runs what a model wrote as a program, this runs a program of ours on
what a model wrote as data: a parser, an interpreter, a database. If the data takes it
over, it is inside the same walls: no files but a read-only system, no network, no other
processes, no rights. It starts once and answers through pipes.

A request and an answer are frames: 8 bytes `<II` with the sizes of a JSON header and of
a blob of bytes, then both. What it answers is to be treated as anything a model says.
"""

import asyncio
import dataclasses
import io
import json
import logging
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox import permission
from cycleqd_jax.sandbox.descriptors import Descriptors
from cycleqd_jax.sandbox.host import Host, inspect_host
from cycleqd_jax.sandbox.process import end_at_once

FRAME = struct.Struct("<II")
MAX_ANSWER_BYTES = 64 * 2**20
_ARCHIVE = "/etc/sandbox/worker.zip"
_SCRATCH_BYTES = 2**20
_BUILD = """
import importlib.util, io, sys, zipfile
if sys.version_info < (3, 11):
    sys.exit("Python %d.%d is older than 3.11" % sys.version_info[:2])
import sqlite3
if not hasattr(sqlite3.Connection, "deserialize"):
    sys.exit("its SQLite %s cannot restore databases" % sqlite3.sqlite_version)
source = zipfile.ZipFile(io.BytesIO(sys.stdin.buffer.read()))
target = io.BytesIO()
with zipfile.ZipFile(target, "w") as archive:
    for name in source.namelist():
        code = compile(source.read(name), name, "exec", dont_inherit=True)
        header = importlib.util.MAGIC_NUMBER + bytes(12)
        import marshal
        archive.writestr(name + "c", header + marshal.dumps(code))
sys.stdout.buffer.write(target.getvalue())
"""
_START = "import sys; sys.path.insert(0, {archive!r}); import {module}; {module}.main()"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class WorkerProgram:
    """What a worker runs.

    Attributes:
      module: whose `main()` reads requests from descriptor 0 and answers on 1.
      host: where it runs.
      python: the interpreter inside.
      mounts: further arguments of bubblewrap.
      archive: all modules it needs beyond the interpreter's own, compiled, as a zip.
    """

    module: str
    host: Host
    python: str
    mounts: tuple[str, ...]
    archive: bytes

    def command(self, slot: int, files: Mapping[str, int], seccomp: int | None):
        """The command line of the worker number `slot`."""
        host = self.host
        command = host.command(
            uid=host.uid(slot),
            scratch_bytes=_SCRATCH_BYTES,
            files=files,
            seccomp=seccomp,
        )
        command[-1:-1] = self.mounts
        start = _START.format(archive=_ARCHIVE, module=self.module)
        return [*command, *host.drop_capability, self.python, "-I", "-S", "-c", start]


def build_program(
    module: str, sources: Mapping[str, bytes], workers: int
) -> WorkerProgram:
    """Finds an interpreter for the sandbox and compiles the modules with it.

    Args:
      module: name of the main module.
      sources: path inside the archive, like "package/name.py" -> Python text.
      workers: how many will run at once.

    Raises:
      BadInputError: bubblewrap is missing or not permitted, or no Python that the
        sandbox's user may read is 3.11 or later with `sqlite3`.
    """
    host = inspect_host(workers)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in sources.items():
            archive.writestr(path, text)
    said = ""
    for python, mounts in _interpreters(host):
        command = host.command(uid=host.uid(0), scratch_bytes=_SCRATCH_BYTES, files={})
        command[-1:-1] = mounts
        command += [*host.drop_capability, python, "-I", "-S", "-c", _BUILD]
        status, output, errors = permission.start(command, buffer.getvalue())
        if status == 0 and output:
            return WorkerProgram(module, host, python, mounts, output)
        lines = errors.decode(errors="replace").strip().splitlines()
        said = f"{python}: {lines[-1] if lines else f'exit status {status}'}"
    raise BadInputError(
        "sandbox: a Python 3.11 or later with SQLite 3.36 or later was expected that "
        f"the sandbox's user may read, got {said}; install python3 with the system's "
        "packages, or start as an ordinary user"
    )


def _interpreters(host: Host) -> list[tuple[str, tuple[str, ...]]]:
    """(Python, mounts) to try: ours if it may be read, then the sandbox's."""
    found = []
    prefix = Path(os.path.realpath(sys.base_prefix))
    ours = prefix / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if ours.exists() and (not host.as_root or _readable(prefix)):
        inside = prefix.is_relative_to("/usr")
        mounts = () if inside else ("--ro-bind", str(prefix), str(prefix))
        found.append((str(ours), mounts))
    found.append((host.python, ()))
    return found


def _readable(folder: Path) -> bool:
    """Whether any user may read a folder, as far as its permissions say."""
    return all(part.stat().st_mode & 0o001 for part in (folder, *folder.parents))


class Worker:
    """One worker process, started at the first request.

    Args:
      program: what it runs.
      slot: its number, which decides its user id where we are root.
    """

    def __init__(self, program: WorkerProgram, slot: int):
        self._program = program
        self._slot = slot
        self._process: subprocess.Popen | None = None
        self._into = self._out = self._errors = -1

    async def ask(
        self, header: Mapping[str, Any], blob: bytes, timeout_s: float
    ) -> tuple[dict[str, Any], bytes]:
        """Sends a request and waits for its answer.

        A worker that fails in any way is gone after that; the next request starts
        another.

        Args:
          header: what JSON can hold.
          blob: bytes that go with it.
          timeout_s: seconds to wait.

        Returns:
          The answer's header and blob.

        Raises:
          WorkerDied: it ended, was too slow, or answered nonsense.
          SandboxError: it could not be started.
        """
        if self._process is None:
            self._start()
        text = json.dumps(header).encode()
        data = FRAME.pack(len(text), len(blob)) + text + blob
        try:
            async with asyncio.timeout(timeout_s):
                await self._write(data)
                return await self._read()
        except TimeoutError:
            self.stop()
            raise WorkerDied(f"it gave no answer within {timeout_s:g} s") from None
        except (OSError, ValueError, EOFError) as error:
            said = self.stop()
            raise WorkerDied(f"{error} {said}".strip()) from None
        except asyncio.CancelledError:  # its answer would be taken for the next one's
            self.stop()
            raise

    def stop(self) -> str:
        """Ends the process; what it had printed to standard error, its end.

        A second call does nothing.
        """
        process, self._process = self._process, None
        if process is None:
            return ""
        os.close(self._into)
        os.close(self._out)
        if process.poll() is None:
            end_at_once(process)
        os.set_blocking(self._errors, False)
        try:
            said = os.read(self._errors, 1 << 16)
        except BlockingIOError:
            said = b""
        os.close(self._errors)
        return said.decode(errors="replace").strip()[-300:]

    def _start(self) -> None:
        host = self._program.host
        in_read, self._into = os.pipe()
        self._out, out_write = os.pipe()
        self._errors, errors_write = os.pipe()
        try:
            with Descriptors() as fds:
                files = {_ARCHIVE: fds.memory(self._program.archive)}
                seccomp = fds.memory(host.seccomp) if host.seccomp else None
                handed = [*files.values(), *([] if seccomp is None else [seccomp])]
                self._process = subprocess.Popen(
                    self._program.command(self._slot, files, seccomp),
                    stdin=in_read,
                    stdout=out_write,
                    stderr=errors_write,
                    pass_fds=handed,
                    env={},
                    cwd="/",
                    start_new_session=True,  # Ctrl-C is for us alone
                )
        except OSError as error:
            for fd in (self._into, self._out, self._errors):
                os.close(fd)
            raise SandboxError(f"a worker could not be started: {error}") from error
        finally:
            for fd in (in_read, out_write, errors_write):
                os.close(fd)
        os.set_blocking(self._into, False)
        os.set_blocking(self._out, False)

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._into, view) :]
            except BlockingIOError:
                await _ready(self._into, write=True)

    async def _read(self) -> tuple[dict[str, Any], bytes]:
        sizes = FRAME.unpack(await self._exactly(FRAME.size))
        if sum(sizes) > MAX_ANSWER_BYTES:
            raise ValueError(f"its answer has {sum(sizes)} bytes")
        data = await self._exactly(sum(sizes))
        header = json.loads(data[: sizes[0]])
        if not isinstance(header, dict):
            raise ValueError("its answer is no object")
        return header, data[sizes[0] :]

    async def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            try:
                part = os.read(self._out, min(size, 1 << 20))
            except BlockingIOError:
                await _ready(self._out, write=False)
                continue
            if not part:
                raise EOFError("it ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class WorkerDied(Exception):  # noqa: N818 - what happened, not necessarily a fault
    """A worker ended before it answered, by what it was given or by itself."""


async def _ready(fd: int, *, write: bool) -> None:
    """Waits until a descriptor can be read or written."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    add, remove = (
        (loop.add_writer, loop.remove_writer)
        if write
        else (loop.add_reader, loop.remove_reader)
    )
    add(fd, wake)
    try:
        await future
    finally:
        remove(fd)
