"""Files of the paper's published code that hold a benchmark's data.

They are downloaded, checked and kept in the user's cache folder.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping

from cycleqd_jax.files import cache_folder
from cycleqd_jax.tasks.data import download, file_hash

REPOSITORY = (
    "https://raw.githubusercontent.com/SakanaAI/CycleQD/"
    "3d14971e0b50c8111c4cb13abd1b261d4c6685ec/"
)


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

    def fetch(self, may_download: bool) -> pathlib.Path:
        """The folder `$XDG_CACHE_HOME/cycleqd_jax/TASK`, with all of the files.

        Args:
          may_download: whether files that are missing or damaged may be downloaded.

        Raises:
          OSError: a file is missing, and may not or cannot be downloaded.
        """
        folder = cache_folder("cycleqd_jax", self.task)
        for name, (path, digest) in self.files.items():
            target = folder / name
            if target.is_file() and file_hash(target) == digest:
                continue
            if not may_download:
                raise OSError("downloads are switched off")

            def check(content: bytes, digest: str = digest) -> bytes:
                if hashlib.sha256(content).hexdigest() != digest:
                    raise ValueError("it is not the file it was, or was cut off")
                return content

            download(REPOSITORY + path, target, check)
        return folder
