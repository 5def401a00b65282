"""Wall time of a training that may be killed and resumed."""

import pathlib
import time

from cycleqd_jax import files


class Clock:
    """Wall time of a training over all its processes.

    Work that a kill has undone, after the last checkpoint, is not counted.
    """

    def __init__(self, path: pathlib.Path):
        """Starts the clock at what earlier processes have saved to the file `path`."""
        self._path, self._start = path, time.perf_counter()
        self._before = float(files.read_json(path)) if path.exists() else 0.0

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._before + time.perf_counter() - self._start

    def save(self) -> None:
        """Writes the seconds so far."""
        files.write_json(self._path, self.seconds)
