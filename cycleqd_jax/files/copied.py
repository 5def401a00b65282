"""Large files of buckets, each read from its bucket once: their copies on the disk.

The weights of a model are read several times: whole for their hash, then tensor by
tensor for the basis, the device and the evaluation of the experts. Before the first
reading their files are copied into the user's cache, as a download from the hub is.
"""

import contextlib
import fcntl
import hashlib
import logging
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.files import disk
from cycleqd_jax.files.byte_file import ByteFile
from cycleqd_jax.files.remote import RemoteFile, is_on_disk

_LOG = logging.getLogger(__name__)
_PART = 1 << 26  # bytes that are copied at a time
_SHARE = 4  # the copies of a model take at most this part of the free disk space
_LOCK = "lock"


class CopiedFile:
    """A file of a bucket, read from its copy where there is one.

    Attributes:
      size: in bytes.
      identity: as of `RemoteFile`; the copy does not change it.
      changed: likewise.
    """

    def __init__(self, url: str):
        """Looks a file up.

        Raises:
          BadInputError: it is not there, or cannot be reached.
        """
        self._url, self._distant = url, RemoteFile(url)
        self.size = self._distant.size
        self.identity, self.changed = self._distant.identity, self._distant.changed
        folder = disk.cache_folder("cycleqd_jax", "weights", _name(url))
        self._place = folder / f"{_name(self.identity)}.safetensors"
        self._near: ByteFile | None = None
        self._open_copy()

    @property
    def lacks_copy(self) -> bool:
        """True if it is read from the bucket, and a copy would be another file."""
        is_known = self.changed == 0.0  # else another content could have its name
        return self._near is None and is_known and not is_on_disk(self._url)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop - 1`."""
        return (self._near or self._distant).read(start, stop)

    def read_into(self, buffer: np.ndarray, start: int) -> None:
        """Fills a buffer of uint8 from a place in the file; errors as theirs."""
        (self._near or self._distant).read_into(buffer, start)

    def copy(self) -> None:
        """Copies the file, and removes copies of what it was before.

        A process that finds another one copying waits for it. Where the disk is full or
        not writable, the bucket is read as before.

        Raises:
          BadInputError: it cannot be reached any more, or was changed meanwhile.
        """
        folder = self._place.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / _LOCK, "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # it ends with its process
                self._open_copy()
                if self._near is None:
                    for old in folder.iterdir():  # and what killed processes left
                        if old.name != _LOCK:
                            old.unlink()
                    disk.write_atomically(self._place, self._write)
                    self._open_copy()
        except (OSError, RunError) as err:
            _LOG.warning("%s is not copied: %s", self._url, err)

    def _open_copy(self) -> None:
        with contextlib.suppress(OSError):
            near = ByteFile(self._place)
            self._near = near if near.size == self.size else None

    def _write(self, partial: pathlib.Path) -> None:
        buffer = np.empty(min(self.size, _PART), np.uint8)
        try:
            with open(partial, "wb") as file:
                for start in range(0, self.size, _PART):
                    part = buffer[: self.size - start]
                    self._distant.read_into(part, start)
                    file.write(part)
            if RemoteFile(self._url, fresh=True).identity != self.identity:
                raise BadInputError(
                    f"{self._url}: was changed while it was read; start again when "
                    "nobody writes to it"
                )
        except BadInputError:
            partial.unlink()
            raise


def copy_all(sources: Iterable[Any]) -> None:
    """Copies the files of a model that are in a bucket, where the disk has room.

    Args:
      sources: of its bytes; those of other kinds are passed over.

    Raises:
      BadInputError: as for `CopiedFile.copy`.
    """
    found = {id(s): s for s in sources if isinstance(s, CopiedFile) and s.lacks_copy}
    if sum(source.size for source in found.values()) * _SHARE > disk.free_bytes():
        return
    for source in found.values():
        source.copy()


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
