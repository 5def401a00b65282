"""Files that are read by ranges of bytes."""

import os
import weakref

import numpy as np


class ByteFile:
    """A file that is read by ranges of bytes, each by itself.

    Attributes:
      size: in bytes.
      identity: a text that every change of the file changes.
      changed: time of the last change, seconds since 1970.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Opens a file.

        Raises:
          OSError: it cannot be opened.
        """
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        found = os.fstat(self._descriptor)
        self.size = found.st_size
        # A change sets the time of change, which no program can set back.
        times = found.st_mtime_ns, found.st_ctime_ns
        self.identity = f"{found.st_dev} {found.st_ino} {self.size} {times}"
        self.changed = max(times) / 1e9

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop - 1`."""
        buffer = np.empty(stop - start, np.uint8)
        self.read_into(buffer, start)
        return buffer.tobytes()

    def read_into(self, buffer: np.ndarray, start: int) -> None:
        """Fills a buffer of uint8 from a place in the file.

        Raises:
          OSError: the file ends before, or cannot be read.
        """
        done, rest = 0, memoryview(buffer)
        while done < len(rest):
            count = os.preadv(self._descriptor, [rest[done:]], start + done)
            if not count:
                raise OSError(f"it ends at byte {start + done}")
            done += count
