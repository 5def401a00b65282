"""One run of an engine's program, on pipes or on a terminal that we hold."""

import asyncio
import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
import tty
from collections.abc import Callable, Sequence

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.container_leftovers import environment
from cycleqd_jax.sandbox.process import wait_for_exit

_PART = 2**16  # bytes per read
_SIZE = struct.pack("HHHH", 24, 80, 0, 0)  # rows and columns


class Command:
    """A command that runs; `close` ends it.

    Its output and its error output have to be read, or they fill up and it waits.

    Args:
      words: the program and its arguments.
      terminal: whether its input and output are a terminal.

    Raises:
      SandboxError: it does not start.
    """

    def __init__(self, words: Sequence[str], terminal: bool = False):
        self._input = self._output = self._errors = -1
        try:
            self._start(words, terminal)
        except OSError as error:
            self._close_all()
            raise SandboxError(f"{words[0]} does not start ({error})") from error

    def _start(self, words: Sequence[str], terminal: bool) -> None:
        if terminal:
            ours, theirs = pty.openpty()
            tty.setraw(theirs)  # the terminal inside echoes and edits
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, _SIZE)
            reads, writes = theirs, os.dup(theirs)
            self._input, self._output = os.dup(ours), ours
        else:
            reads, self._input = os.pipe()
            self._output, writes = os.pipe()
        self._errors, complains = os.pipe()
        try:
            self._process = subprocess.Popen(
                words,
                stdin=reads,
                stdout=writes,
                stderr=complains,
                start_new_session=True,  # Ctrl-C is for us alone
                env=environment(),
                cwd="/proc",  # Podman would note there that memory was full
            )
        finally:
            for fd in (reads, writes, complains):
                os.close(fd)
        for fd in (self._input, self._output, self._errors):
            os.set_blocking(fd, False)

    async def receive(self) -> bytes:
        """The next output; empty at the end."""
        return await _receive(self._output)

    async def receive_errors(self) -> bytes:
        """The next error output; empty at the end."""
        return await _receive(self._errors)

    async def read(self, most: int) -> bytes:
        """The first `most` bytes of its output, which is read to its end."""
        output = bytearray()
        while part := await self.receive():
            output += part[: most - len(output)]
        return bytes(output)

    def errors(self) -> str:
        """The error output that is there and was not read yet."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._errors, _PART).decode(errors="replace").strip()
        return ""

    async def send(self, data: bytes) -> None:
        """Sends input; does nothing if it is not read any more."""
        while data and self._input >= 0:
            try:
                data = data[os.write(self._input, data) :]
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await _ready(self._input, loop.add_writer, loop.remove_writer)
            except OSError:
                return

    def finish_input(self) -> None:
        """Ends its input."""
        if self._input >= 0:
            os.close(self._input)
            self._input = -1

    async def ended(self) -> int:
        """Waits for its end; its exit status."""
        if self._process.returncode is None:
            await wait_for_exit(self._process)
        return self._process.returncode

    def close(self) -> None:
        """Ends it, if it runs still. A command inside a container goes on."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        self._close_all()

    def _close_all(self) -> None:
        self.finish_input()
        for fd in (self._output, self._errors):
            if fd >= 0:
                os.close(fd)
        self._output = self._errors = -1


async def _receive(fd: int) -> bytes:
    await asyncio.sleep(0)  # others, and time limits, have their turn if there is more
    while True:
        try:
            return os.read(fd, _PART)
        except BlockingIOError:
            loop = asyncio.get_running_loop()
            await _ready(fd, loop.add_reader, loop.remove_reader)
        except OSError:  # a terminal that nobody holds any more
            return b""


async def _ready(fd: int, add: Callable, remove: Callable) -> None:
    """Waits until a descriptor can be read, or written."""
    ready = asyncio.get_running_loop().create_future()
    add(fd, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        remove(fd)
