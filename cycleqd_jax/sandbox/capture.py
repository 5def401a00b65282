"""Reads the output of a program, up to a limit."""

import asyncio
import os


class Capture:
    """Reads at most `limit` bytes from a pipe, as a context manager.

    Args:
      fd: the end to read; is made non-blocking.
      limit: bytes to keep.
      on_over: is set when more than `limit` bytes were read; reading then stops.
    """

    def __init__(self, fd: int, limit: int, on_over: asyncio.Event):
        self._fd = fd
        self._limit = limit
        self._on_over = on_over
        self._parts: list[bytes] = []
        self._size = 0
        self._done = False
        os.set_blocking(fd, False)

    @property
    def data(self) -> bytes:
        """The bytes read, at most the limit."""
        return b"".join(self._parts)[: self._limit]

    @property
    def over(self) -> bool:
        """True if there were more bytes than the limit."""
        return self._size > self._limit

    def __enter__(self) -> "Capture":
        asyncio.get_running_loop().add_reader(self._fd, self._read)
        return self

    def __exit__(self, *exc) -> None:
        self._stop()

    def drain(self) -> None:
        """Reads the rest of the pipe after its writers have ended."""
        while not self._done:
            if not self._read():
                self._stop()

    def _read(self) -> bool:
        """Reads once; returns False if there was nothing."""
        try:
            part = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return False
        self._parts.append(part)
        self._size += len(part)
        if not part:
            self._stop()
        elif self.over:
            self._stop()
            self._on_over.set()
        return True

    def _stop(self) -> None:
        if not self._done:
            self._done = True
            asyncio.get_running_loop().remove_reader(self._fd)
