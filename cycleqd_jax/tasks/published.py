"""Files of the paper's published code that hold a benchmark's data.

They are fetched where there is a network, checked, and kept in the user's cache folder.
"""

import dataclasses
import hashlib
import http.client
import os
import pathlib
import urllib.request
from collections.abc import Mapping

REPOSITORY = (
    "https://raw.githubusercontent.com/SakanaAI/CycleQD/"
    "3d14971e0b50c8111c4cb13abd1b261d4c6685ec/"
)
_TIMEOUT_S = 30.0  # of each step of the connection
_LARGEST = 1 << 26  # bytes of a file; those that are fetched have less than 2 MB


@dataclasses.dataclass(frozen=True)
class Published:
    """The files of one task.

    Attributes:
      task: its name.
      files: name -> (path in the repository, hex SHA-256).
    """

    task: str
    files: Mapping[str, tuple[str, str]]

    @property
    def how(self) -> str:
        """The command that fetches them by hand."""
        return (
            f"curl --create-dirs --output-dir {self.task} --remote-name-all "
            + " ".join(REPOSITORY + path for path, _ in self.files.values())
        )

    def fetch(self, download: bool) -> pathlib.Path:
        """The folder that has them, fetched unless they are here and whole.

        It is `$XDG_CACHE_HOME/cycleqd_jax/TASK`, by default under `~/.cache`.

        Args:
          download: whether they may be fetched.

        Raises:
          OSError: they are not here and cannot be had, or what came is not what was
            published.
        """
        root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        folder = root.expanduser() / "cycleqd_jax" / self.task
        for name, (path, digest) in self.files.items():
            target = folder / name
            if target.is_file() and _sha256(target.read_bytes()) == digest:
                continue
            if not download:
                raise OSError("downloads are switched off")
            content = _get(path)
            if _sha256(content) != digest:
                raise OSError(f"{path} is not the file it was, or was cut off")
            folder.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{name}.{os.getpid()}")
            try:
                part.write_bytes(content)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        return folder


def _get(path: str) -> bytes:
    try:
        with urllib.request.urlopen(REPOSITORY + path, timeout=_TIMEOUT_S) as reply:
            return reply.read(_LARGEST)
    except OSError as err:
        raise OSError(f"{path}: {err}") from err
    except http.client.HTTPException as err:  # which is no OSError
        raise OSError(f"{path}: {type(err).__name__}") from err


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
