"""File descriptors that are closed for sure."""

import contextlib
import os


class Descriptors(contextlib.ExitStack):
    """File descriptors that are closed at the latest on leaving."""

    def __init__(self):
        super().__init__()
        self._open: set[int] = set()
        self.callback(lambda: self.close(*self._open))

    def memory(self, content: bytes) -> int:
        """A memory file with `content`, to be read from its start."""
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
        """A descriptor that can be read from once the process `pid` has ended."""
        fd = os.pidfd_open(pid)
        self._open.add(fd)
        return fd

    def say_and_close(self, fd: int) -> None:
        """Makes the other end of a pipe readable; a fork of ours may keep it open."""
        if fd in self._open:
            with contextlib.suppress(BrokenPipeError):
                os.write(fd, b"x")
            self.close(fd)

    def close(self, *fds: int) -> None:
        """Closes those of `fds` that are still open."""
        for fd in fds:
            if fd in self._open:
                self._open.remove(fd)
                os.close(fd)
