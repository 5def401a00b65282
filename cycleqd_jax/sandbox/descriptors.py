"""File descriptors that are closed on every path."""

import contextlib
import os


class Descriptors(contextlib.ExitStack):
    """Closes all its file descriptors when the context is left."""

    def __init__(self):
        super().__init__()
        self._open: set[int] = set()
        self.callback(lambda: self.close(*self._open))

    @property
    def all(self) -> tuple[int, ...]:
        """The numbers of the open descriptors."""
        return tuple(self._open)

    def memory(self, content: bytes) -> int:
        """A memory file with `content`, positioned at its start."""
        fd = os.memfd_create("sandbox")
        self._open.add(fd)
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def pipe(self) -> tuple[int, int]:
        """A pipe: (end to read, end to write)."""
        ends = os.pipe()
        self._open.update(ends)
        return ends

    def process(self, pid: int) -> int:
        """A descriptor that becomes readable when the process `pid` has ended."""
        fd = os.pidfd_open(pid)
        self._open.add(fd)
        return fd

    def take(self, *fds: int) -> None:
        """Closes these too."""
        self._open.update(fds)

    def close(self, *fds: int) -> None:
        """Closes those of `fds` that are still open."""
        for fd in fds:
            if fd in self._open:
                self._open.remove(fd)
                os.close(fd)
