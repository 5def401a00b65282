"""What a command in a container reads and prints, over the engine's connection.

The engine sends both outputs over one connection, in frames: a byte that tells the
output, three zeros, four bytes with the length, and so many bytes.
"""

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from cycleqd_jax.errors import SandboxError

if TYPE_CHECKING:
    import docker

_HEADER = 8  # bytes
_OUTPUTS = (0, 1, 2)
_PART = 2**16  # bytes read at once


class Frames:
    """Takes the frames off what is received, wherever that is cut."""

    def __init__(self):
        self._header = b""
        self._left = 0  # bytes of the present frame that have not come yet

    @property
    def complete(self) -> bool:
        """Whether a frame ends where the data so far end."""
        return not self._header and not self._left

    def feed(self, data: bytes) -> bytes:
        """What the command printed of the next data.

        Raises:
          SandboxError: they are no frames.
        """
        printed, data = bytearray(), memoryview(data)
        while data:
            if not self._left:
                missing = _HEADER - len(self._header)
                self._header += data[:missing]
                data = data[missing:]
                if len(self._header) < _HEADER:
                    break
                self._left = self._length()
                self._header = b""
            part = data[: self._left]
            printed += part
            self._left -= len(part)
            data = data[len(part) :]
        return bytes(printed)

    def _length(self) -> int:
        if self._header[0] not in _OUTPUTS or any(self._header[1:4]):
            raise SandboxError(
                "the container engine sent what is no output of a command "
                f"({self._header!r}); try again, or another engine"
            )
        return int.from_bytes(self._header[4:])


class Channel:
    """A command that the engine runs in a container; `open` starts it."""

    def __init__(self):
        self.id = ""
        self._response = None
        self._socket: socket.socket | None = None
        self._early = b""
        self._frames = Frames()

    def open(
        self,
        client: "docker.APIClient",
        name: str,
        words: list[str],
        variables: dict[str, str],
        stdin: bool,
    ) -> None:
        """Starts it; blocks until the engine has done so.

        Args:
          client: of the engine.
          name: of the container.
          words: the command, run in `/`.
          variables: of its environment, beside those of the container.
          stdin: whether it reads what `send` is given; else it finds its input empty.
        """
        self.id = client.exec_create(
            name, words, stdin=stdin, workdir="/", environment=variables
        )["Id"]
        stream = client.exec_start(self.id, socket=True)
        # The SDK has no call for what its own buffer took behind the answer's headers.
        self._response = stream._response
        self._socket = stream._sock
        self._socket.setblocking(False)
        self._early = self._response.raw._fp.fp.peek()

    async def send(self, data: bytes) -> None:
        """Gives it input; nothing happens where its connection has ended."""
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self) -> bytes:
        """The next that it prints, or nothing at its end or the engine's.

        Raises:
          SandboxError: the engine sent something else, or stopped inside a frame.
        """
        loop = asyncio.get_running_loop()
        while True:
            data, self._early = self._early, b""
            if not data:
                # An error is an end: of the command, if its input was not all read.
                with contextlib.suppress(OSError):
                    data = await loop.sock_recv(self._socket, _PART)
            if not data and not self._frames.complete:
                raise SandboxError(
                    "the container engine ended its connection in the middle of an "
                    "output; see whether it is still running"
                )
            if (printed := self._frames.feed(data)) or not data:
                return printed

    async def read(self, most: int) -> bytes:
        """All that it prints until its end, the first `most` bytes of it."""
        output = bytearray()
        while part := await self.receive():
            output += part[: most - len(output)]
        return bytes(output)

    def close(self) -> None:
        """Ends the connection, not the command."""
        if self._response is not None:
            self._response.close()
