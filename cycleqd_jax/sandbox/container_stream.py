"""Input and output of a command in a container, over the engine's connection.

The engine sends both outputs in frames: one byte for the stream, three zero bytes, four
bytes for the length, and the content.
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
_PART = 2**16  # bytes per read


class Frames:
    """Decodes frames from data that may be cut anywhere."""

    def __init__(self):
        self._header = b""
        self._left = 0  # bytes of the current frame that are missing

    @property
    def complete(self) -> bool:
        """Whether the data so far end with a frame."""
        return not self._header and not self._left

    def feed(self, data: bytes) -> bytes:
        """Decodes more data into the output that they contain.

        Raises:
          SandboxError: they are not frames.
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
        """Starts the command; blocks until the engine has started it.

        Args:
          client: of the engine.
          name: of the container.
          words: the command, run in `/`.
          variables: added to the container's environment.
          stdin: whether it reads what `send` gets; otherwise its input is empty.
        """
        self.id = client.exec_create(
            name, words, stdin=stdin, workdir="/", environment=variables
        )["Id"]
        stream = client.exec_start(self.id, socket=True)
        # The SDK's buffer may hold output after the response's headers, without a call
        # to get it.
        self._response = stream._response
        self._socket = stream._sock
        self._socket.setblocking(False)
        self._early = self._response.raw._fp.fp.peek()

    async def send(self, data: bytes) -> None:
        """Sends input; does nothing if the connection is closed."""
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self) -> bytes:
        """The next output; empty at the end.

        Raises:
          SandboxError: the engine sent no frame, or closed inside a frame.
        """
        loop = asyncio.get_running_loop()
        while True:
            data, self._early = self._early, b""
            if not data:
                # An error is the end too: of a command that did not read its input.
                with contextlib.suppress(OSError):
                    data = await loop.sock_recv(self._socket, _PART)
            if not data and not self._frames.complete:
                raise SandboxError(
                    "the container engine closed its connection in the middle of an "
                    "output; check whether it is running"
                )
            if (printed := self._frames.feed(data)) or not data:
                return printed

    async def read(self, most: int) -> bytes:
        """Reads the output to its end and returns the first `most` bytes."""
        output = bytearray()
        while part := await self.receive():
            output += part[: most - len(output)]
        return bytes(output)

    def close(self) -> None:
        """Closes the connection; the command goes on."""
        if self._response is not None:
            self._response.close()
