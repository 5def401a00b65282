"""The folder of an unfinished training: lock, checkpoints and the expert's files."""

import fcntl
import os
import pathlib
import shutil
from typing import Self

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError


class WorkFolder:
    """An open work folder, locked until it is closed or the process ends.

    Attributes:
      path: the folder.
      checkpoints: where Orbax writes.
      expert: where the expert is written before it is renamed into place.
      clock: the file with the seconds that the training took so far.
    """

    def __init__(self, path: pathlib.Path):
        """Creates the folder if it is missing and locks it.

        Raises:
          BadInputError: it is in use or cannot be written, or a file is in place of a
            folder.
        """
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.expert = path / "expert"
        self.clock = path / "seconds.json"
        for folder in (self.checkpoints, self.expert):
            if folder.exists() and not folder.is_dir():
                raise BadInputError(
                    f"output: {folder} is a file; expected a folder, move it away."
                )
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

    def start(self) -> None:
        """Removes checkpoints of unknown origin before a new training."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        self.clock.unlink(missing_ok=True)

    def empty_expert(self) -> pathlib.Path:
        """Removes what a killed process wrote of the expert; returns its path."""
        shutil.rmtree(self.expert, ignore_errors=True)
        return self.expert

    def finish(self, target: pathlib.Path) -> None:
        """Renames the complete expert into place and removes the work folder."""
        for path in sorted(self.expert.rglob("*")):
            if path.is_file():
                files.sync(path)
        files.sync(self.expert)
        # POSIX: a rename replaces an empty folder and refuses any other.
        os.rename(self.expert, target)
        files.sync(target.parent)
        self.remove()

    def remove(self) -> None:
        """Removes the folder with its lock."""
        shutil.rmtree(self.path)
