"""Files on the disk: whole or not at all, with checksums, and errors that name them."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cycleqd_jax.errors import BadInputError, RunError

PARTIAL = ".partial"  # ending of the names of files that are still being written
SUMS = "SHA256SUMS"  # checksums of the files beside it, as `sha256sum -c` reads them
_SEAL = "sha256"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    """Lets `write` fill a temporary sibling, then renames it into place.

    Raises:
      RunError: the disk is full or not writable; what was at `path` is as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        sync(partial)
        os.replace(partial, path)
    except OSError as err:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)  # on a full disk every byte counts
        raise cannot_write(path, err) from err


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes bytes atomically."""
    write_atomically(path, lambda p: p.write_bytes(content))


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def json_text(data: Any) -> str:
    """JSON; equal data give equal texts."""
    return json.dumps(data, indent=2, sort_keys=True) + "\n"


def write_json(path: pathlib.Path, data: Any) -> None:
    """Writes JSON atomically; equal data give equal bytes."""
    write_text(path, json_text(data))


def parse_json(content: bytes, *, halves: bool = False) -> Any:
    """The value that JSON in UTF-8 stands for.

    Args:
      content: the JSON.
      halves: whether a text may have half of a surrogate pair, such as a cut emoji
        leaves; such a text cannot be encoded again.

    Raises:
      ValueError, RecursionError: it is not JSON, or has such a half.
    """
    data = json.loads(content.decode("utf-8"))
    if not halves and _SURROGATE.search(content):
        try:
            json.dumps(data, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as err:
            half = err.object[err.start]
            raise ValueError(
                f"a text in it has {half!r}, half of a character such as an emoji; cut "
                "texts between characters"
            ) from err
    return data


def read_json(path: pathlib.Path) -> Any:
    """Reads JSON.

    Raises:
      BadInputError: it is missing or damaged.
    """
    try:
        return parse_json(path.read_bytes())
    except OSError as err:
        raise BadInputError(f"{path} cannot be read ({reason(err)}).") from err
    except (ValueError, RecursionError) as err:
        raise BadInputError(f"{path} is damaged: it is not JSON ({err}).") from err


def write_sealed(path: pathlib.Path, data: dict[str, Any]) -> None:
    """Writes a JSON object with the checksum of its content in it."""
    write_text(path, sealed(data))


def sealed(data: dict[str, Any]) -> str:
    """A JSON object with the checksum of its content in it."""
    return json_text(data | {_SEAL: _checksum(data)})


def read_sealed(path: pathlib.Path) -> dict[str, Any]:
    """Reads what `write_sealed` wrote, without the checksum.

    Raises:
      BadInputError: it is missing, or its checksum does not match.
    """
    return unsealed(read_json(path), path)


def unsealed(data: Any, name: object) -> dict[str, Any]:
    """Returns the data that `sealed` was given, from the JSON that was read.

    Raises:
      BadInputError: its checksum does not match.
    """
    seal = data.pop(_SEAL, None) if isinstance(data, dict) else None
    if seal is None or seal != _checksum(data):
        raise BadInputError(f"{name} is damaged: its checksum does not match.")
    return data


def _checksum(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def hash_arrays(arrays: Mapping[str, np.ndarray], settings: object = None) -> str:
    """SHA-256 over names, dtypes, shapes and little-endian bytes of arrays.

    Args:
      arrays: name -> array of any shape and dtype (bfloat16 too), on any device; their
        order does not matter. Each is taken once.
      settings: anything that JSON can hold, hashed too; the order of keys does not
        matter.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(arrays):
        one = arrays[name]
        shape, array = list(np.shape(one)), np.ascontiguousarray(one)
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        head = json.dumps([name, array.dtype.name, shape])
        digest.update(head.encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def table_bytes(table: pa.Table) -> bytes:
    """A parquet file; equal tables give equal bytes.

    Its pages carry checksums: without them a flipped bit can read as another score.
    """
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue().to_pybytes()


def write_table(path: pathlib.Path, table: pa.Table) -> None:
    """Writes a parquet file atomically; see `table_bytes`."""
    write_bytes(path, table_bytes(table))


def read_table(path: pathlib.Path) -> pa.Table:
    """Reads a parquet file.

    Raises:
      BadInputError: it is missing or damaged.
    """
    try:
        # No partitioning: a folder called seed=1 must not become a column.
        return pq.read_table(path, partitioning=None, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as err:
        raise BadInputError(f"{path} is missing or damaged ({reason(err)}).") from err


def digest(path: pathlib.Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(content: bytes) -> str:
    """SHA-256 of bytes, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def append_line(path: pathlib.Path, line: str) -> None:
    """Appends one line of text.

    Raises:
      RunError: the disk is full or not writable.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as err:
        raise cannot_write(path, err) from err


def read_log(path: pathlib.Path) -> list[dict[str, Any]]:
    """The JSON objects of a log with one per line; none if there is no log.

    Other lines are skipped: a killed process may leave an unfinished last line, and a
    log is for information only.
    """
    rows = []
    with contextlib.suppress(OSError):
        for line in path.read_text("utf-8", "replace").splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def sync(path: pathlib.Path) -> None:
    """Returns when a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_room(folder: pathlib.Path, size: int) -> None:
    """Checks that `size` bytes can be written to a folder.

    Call it before a library writes that gives no clear error when the disk is full.

    Raises:
      OSError: they cannot.
    """
    trial = folder / f".room{PARTIAL}"
    try:
        with open(trial, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
    finally:
        trial.unlink(missing_ok=True)


def free_bytes() -> int:
    """Free bytes of the disk that the user's cache is on."""
    folder = cache_folder()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def cannot_write(path: pathlib.Path, err: Exception) -> RunError:
    """The error for a file that a run cannot write, with what to do about it."""
    remedy = "see to that disk"
    if getattr(err, "errno", None) in NO_ROOM or "No space left" in str(err):
        remedy = "make room on that disk"
    elif getattr(err, "errno", None) in (errno.EROFS, errno.EACCES, errno.EPERM):
        remedy = "make it writable"
    elif getattr(err, "errno", None) in _IN_THE_WAY:
        remedy = "move away what is in its place"
    return RunError(f"{path} cannot be written ({reason(err)}); {remedy}.")


def reason(err: Exception) -> str:
    """The text of an error on one line of at most 200 characters."""
    number = getattr(err, "errno", None)
    text = os.strerror(number) if number else " ".join(str(err).split())
    return (text or type(err).__name__)[:200]


def cache_folder(*parts: str) -> pathlib.Path:
    """A folder in the user's cache: `$XDG_CACHE_HOME`, by default `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(os.path.expanduser(root)).joinpath(*parts)
