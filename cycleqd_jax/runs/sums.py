"""Files of a run with a checksum in the `SHA256SUMS` beside them.

`sha256sum -c` reads it too. Without it a changed byte can pass for what was written:
YAML and JSON have no checksum, and those in a parquet file do not cover the names of
its columns.
"""

import pathlib

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError, advising


def write(path: pathlib.Path, content: bytes) -> None:
    """Writes a file, its checksum first; removes checksums of files that are gone.

    Raises:
      RunError: the disk is full or not writable.
    """
    before = _read(path.parent)
    after = before | {path.name: files.digest_of(content)}
    after = {
        name: digest
        for name, digest in sorted(after.items())
        if name == path.name or path.with_name(name).is_file()
    }
    if after != before:
        lines = (f"{digest}  {name}\n" for name, digest in after.items())
        files.write_text(path.with_name(files.SUMS), "".join(lines))
    files.write_bytes(path, content)


def verified(path: pathlib.Path) -> pathlib.Path:
    """The path of a file whose content is what was written.

    Raises:
      BadInputError: it is missing, or a byte of it or of its checksum has changed.
    """
    if not path.is_file():
        raise BadInputError(f"{path} is missing.")
    if _read(path.parent).get(path.name) != files.digest(path):
        raise BadInputError(
            f"{path} is damaged: its checksum is not that in {files.SUMS}."
        )
    return path


def intact(path: pathlib.Path) -> pathlib.Path:
    """Like `verified`, for readers, which cannot make the file again.

    Raises:
      BadInputError: as `verified`; says what to do.
    """
    with advising(
        "bring it back from a copy, or have it made again with "
        "experiments.agent_skills --resume"
    ):
        return verified(path)


def listed(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files that a folder has checksums of, in order."""
    return [folder / name for name in _read(folder)]


def _read(folder: pathlib.Path) -> dict[str, str]:
    """Name of the file -> checksum."""
    path = folder / files.SUMS
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = (line.partition("  ") for line in lines)
    return {name: digest for digest, _, name in pairs if name}
