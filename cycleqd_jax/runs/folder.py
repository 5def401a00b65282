"""The folder of one run: its lock and the paths of its files.

The folder itself and those of its parquet parts, `times/` aside, have a file
`SHA256SUMS`; see `sums.py`.
Killing and resuming a run changes no byte of the folder, except in files about time
and place: `run.json`, `timing.jsonl`, `times/`, `tensorboard/`, `wandb/`, and the wall
times in the report.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
from typing import Self, TextIO

import pyarrow as pa

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.runs import sums

REPORT = "report/report.json"
PARTS = ("results", "metrics", "logprobs", "costs", "times")  # kinds of parquet parts
_FOLDERS = ("checkpoints", *PARTS, "report")
_ENDINGS = (".yaml", ".json", ".jsonl", ".parquet", ".safetensors", files.SUMS)


def check_kinds(run: pathlib.Path) -> None:
    """Refuses a run folder with a file in place of a folder or the other way round.

    Raises:
      BadInputError: names it.
    """
    checkpoints = (p for p in run.glob("checkpoints/*") if p.name.isdecimal())
    for path in (*(run / name for name in _FOLDERS), *checkpoints):
        if path.exists() and not path.is_dir():
            raise BadInputError(
                f"run_dir: {path} is a file; expected a folder, move it away."
            )
    for place in (run, *(run / name for name in _FOLDERS)):
        for path in place.glob("*"):
            if path.name.endswith(_ENDINGS) and path.is_dir():
                raise BadInputError(
                    f"run_dir: {path} is a folder; expected a file, move it away."
                )


class RunFolder:
    """An open run folder; it holds the folder's lock until it is closed.

    Attributes:
      path: the folder.
      checkpoints: where Orbax writes.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, resume: bool, trial: bool = False
    ):
        """Opens a folder and takes its lock.

        The operating system releases the lock when the process that holds it ends, so a
        killed process leaves no lock behind.

        Args:
          path: created if it does not exist.
          resume: whether the folder may hold a run already.
          trial: whether the folder is to be as before when it is closed; nothing may be
            written into it then.

        Raises:
          BadInputError: it is in use, holds something and `resume` is False, or cannot
            be written.
          RunError: there is no room on the disk.
        """
        self.path = pathlib.Path(path)
        self.checkpoints = self.path / "checkpoints"
        self._made: list[pathlib.Path] = []
        self._lock: TextIO | None = None
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            self._open(trial)
            self._take_lock()
            if not resume and self.is_used:
                raise BadInputError(
                    f"run_dir: {self.path} is not empty; add --resume to go on with "
                    "the run in it, or choose another with run_dir=FOLDER."
                )
            check_kinds(self.path)
            if not trial:
                self._remove_partials()
            stack.pop_all()

    def _open(self, trial: bool) -> None:
        lock = self.path / "lock"
        try:
            if trial:
                made = (lock, self.path, *self.path.parents)
                self._made = [path for path in made if not path.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(lock, "a+", encoding="utf-8", errors="replace")
        except OSError as err:
            if err.errno in files.NO_ROOM:
                raise files.cannot_write(self.path, err) from err
            raise BadInputError(
                f"run_dir: {self.path} cannot be written ({err.strerror}); choose "
                "another with run_dir=FOLDER."
            ) from err

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Releases the lock."""
        with contextlib.suppress(OSError):
            for path in self._made:
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()

    @property
    def is_used(self) -> bool:
        """True if the folder holds anything but the lock."""
        return any(entry.name != "lock" for entry in self.path.iterdir())

    @property
    def is_finished(self) -> bool:
        """True if the report was written."""
        return (self.path / REPORT).is_file()

    def forget_parts(self, pattern: str, keep: str = "") -> None:
        """Removes the parts of all kinds whose names match, but for one."""
        for kind in PARTS:
            for path in (self.path / kind).glob(f"{pattern}.parquet"):
                if path.stem != keep:
                    path.unlink()

    def part(self, kind: str, name: str) -> pathlib.Path:
        """The path of one parquet part; `kind` is one of `PARTS`."""
        return self.path / kind / f"{name}.parquet"

    def write_part(self, kind: str, name: str, table: pa.Table) -> None:
        """Writes a part with its checksum.

        Raises:
          RunError: the disk is full or not writable.
        """
        sums.write(self.part(kind, name), files.table_bytes(table))

    def read_part(self, kind: str, name: str) -> pa.Table:
        """Reads what `write_part` wrote.

        Raises:
          BadInputError: it is missing, or a byte of it or of its checksum has changed.
        """
        return files.read_table(sums.verified(self.part(kind, name)))

    def batches(self) -> list[str]:
        """Names of the parts that hold batches of children, in order."""
        return sorted(path.stem for path in self._batch_parts("results"))

    def drop_batches_from(self, generation: int) -> None:
        """Removes the parts of batches that begin at a generation or later."""
        for kind in PARTS:
            for path in self._batch_parts(kind):
                if int(path.stem.removeprefix("batch-")) >= generation:
                    path.unlink()

    def log_time(self, phase: str, seconds: float, **details: float) -> None:
        """Appends one line to `timing.jsonl`."""
        row = {"phase": phase, "seconds": round(seconds, 3)} | details
        files.append_line(self.path / "timing.jsonl", json.dumps(row))

    def _batch_parts(self, kind: str) -> list[pathlib.Path]:
        paths = (self.path / kind).glob("batch-*.parquet")
        return [p for p in paths if p.stem.removeprefix("batch-").isdecimal()]

    def _remove_partials(self) -> None:
        """Removes files that a killed process had half written."""
        for folder in ("", *PARTS, "report"):
            for path in (self.path / folder).glob(f"*{files.PARTIAL}"):
                path.unlink(missing_ok=True)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            if err.errno not in (errno.EACCES, errno.EAGAIN):
                raise BadInputError(
                    f"run_dir: {self.path} cannot be locked ({err.strerror}); choose a "
                    "folder on a local disk with run_dir=FOLDER."
                ) from err
            self._lock.seek(0)
            owner = self._lock.read(20).strip() or "unknown"
            raise BadInputError(
                f"run_dir: {self.path} is in use by process {owner}; wait for it to "
                "end, or choose another with run_dir=FOLDER."
            ) from err
        # The process id is only for the message above, so a full disk does not matter.
        with contextlib.suppress(OSError):
            os.ftruncate(self._lock.fileno(), 0)
            os.write(self._lock.fileno(), f"{os.getpid()}\n".encode())
