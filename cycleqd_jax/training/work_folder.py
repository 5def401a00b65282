"""The folder of a training that is not done: its lock, checkpoints and the expert."""

import fcntl
import os
import pathlib
import shutil
from typing import Self

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError


class WorkFolder:
    """An open work folder; holds its lock until it is closed.

    The lock is the operating system's: it goes with the process that holds it.

    Attributes:
      path: the folder.
      checkpoints: where Orbax writes.
      expert: where the finished expert is put together, before it gets its place.
    """

    def __init__(self, path: pathlib.Path):
        """Makes the folder if it is not there, and takes its lock.

        Raises:
          BadInputError: it is in use or cannot be written.
        """
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.expert = path / "expert"
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = open(path / "lock", "a", encoding="utf-8")
        except OSError as err:
            raise BadInputError(
                f"output: {path} cannot be written ({err.strerror}); choose another "
                "output."
            ) from err
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            self._lock.close()
            raise BadInputError(
                f"output: {path} is in use by another process ({err.strerror}); wait "
                "for it to end."
            ) from err

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        self._lock.close()

    def begin(self) -> None:
        """Removes checkpoints of a training that is not known."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def empty_expert(self) -> pathlib.Path:
        """The folder to put the expert together in, without what a kill left there."""
        shutil.rmtree(self.expert, ignore_errors=True)
        return self.expert

    def finish(self, target: pathlib.Path) -> None:
        """Gives the expert its place, whole, and removes the rest."""
        for path in sorted(self.expert.rglob("*")):
            if path.is_file():
                files.sync(path)
        files.sync(self.expert)
        # On POSIX a rename replaces an empty folder and refuses one that is not.
        os.rename(self.expert, target)
        files.sync(target.parent)
        self.remove()

    def remove(self) -> None:
        """Removes the folder; the lock goes with it."""
        shutil.rmtree(self.path)
