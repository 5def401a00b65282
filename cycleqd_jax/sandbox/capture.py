"""Reading what a program writes, up to a limit."""

import asyncio
import os


class Capture:
    """Collects at most `limit` bytes from the pipe `fd` while it is entered.

    Args:
      fd: the end to read; set to non-blocking.
      limit: bytes to keep.
      on_over: set when more than `limit` bytes came; reading stops then.
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
        """What was read, never more than the limit."""
        return b"".join(self._parts)[: self._limit]

    @property
    def over(self) -> bool:
        """Whether more than the limit came."""
        return self._size > self._limit

    def __enter__(self) -> "Capture":
        asyncio.get_running_loop().add_reader(self._fd, self._read)
        return self

    def __exit__(self, *exc) -> None:
        self._stop()

    def drain(self) -> None:
        """Reads what is left in the pipe once its writers are gone."""
        while not self._done:
            if not self._read():
                self._stop()

    def _read(self) -> bool:
        """Reads once; returns False when nothing was there."""
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
