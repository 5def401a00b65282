"""Whole files or none, errors that name them, and the base of all settings."""

import contextlib
import datetime
import errno
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic
from pydantic import AfterValidator, BeforeValidator, Field

from cycleqd_jax.errors import BadInputError, RunError, explain

PARTIAL = ".partial"  # how the names of files end that are being written
SUMS = "SHA256SUMS"  # checksums of the files beside it, as `sha256sum -c` reads them
_SEAL = "sha256"
_NAME = r"[A-Za-z0-9][\w.-]{0,63}"
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
      BadInputError: it is missing or damaged, be it by one digit.
    """
    return unsealed(read_json(path), path)


def unsealed(data: Any, name: object) -> dict[str, Any]:
    """Returns the data that `sealed` was given, from the JSON that was read.

    Raises:
      BadInputError: it is damaged, be it by one digit.
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
    """Looks whether `size` bytes can be written to a folder.

    For writers that cannot be stopped half-way with one clear error.

    Raises:
      OSError: they cannot.
    """
    trial = folder / f".room{PARTIAL}"
    try:
        with open(trial, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
    finally:
        trial.unlink(missing_ok=True)


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


def home(path: str) -> str:
    """A path whose `~` or `~user` at the beginning is the home folder.

    Raises:
      ValueError: there is no such folder.
    """
    expanded = os.path.expanduser(path)
    if re.match("~[^/]*(/|$)", expanded):
        raise ValueError(f"{path} names a home folder that does not exist")
    return expanded


def _date(value: Any) -> Any:
    """YAML reads 2024-07-26 as a date; `to_yaml` writes it as text."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        return datetime.date.fromisoformat(value)
    return value


def _import_path(path: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", path):
        raise ValueError("Input should be an import path like package.module:name")
    return path


def _task_name(name: str) -> str:
    if name.startswith("lm_eval:") and name != "lm_eval:":
        return name
    if not name.isidentifier() and ":" not in name:
        raise ValueError(
            "Input should be a name like pocket_coding, an import path like "
            "package.module:Class, or lm_eval:TASK"
        )
    return name if name.isidentifier() else _import_path(name)


def check_name(name: str) -> str:
    """A name that files, tables and figures can have.

    Raises:
      ValueError: it is another text.
    """
    if not isinstance(name, str) or not re.fullmatch(_NAME, name, re.ASCII):
        raise ValueError(
            "expected at most 64 letters, digits, dots, dashes and underscores, the "
            "first a letter or digit, like coding or db-and-os"
        )
    return name


def each_once(values: Sequence[Hashable]) -> Sequence[Hashable]:
    """A validator that refuses a list with a value in it twice."""
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{value!r} is there twice; expected each once")
    return values


Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
PathText = Annotated[Text, AfterValidator(home)]
ImportPath = Annotated[Text, AfterValidator(_import_path)]
Date = Annotated[datetime.date, BeforeValidator(_date)]
Name = Annotated[str, AfterValidator(check_name)]
TaskName = Annotated[Text, AfterValidator(_task_name)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
# Bounded, so that no product of a few of them overflows.
Count = Annotated[int, Field(ge=0, le=10**6)]
Whole = Annotated[int, Field(ge=1, le=10**6)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# Far from the ends of float32, and so are products of a few of them.
Scale = Annotated[float, Field(ge=1e-6, le=1e6)]


class Section(pydantic.BaseModel):
    """Settings of one part: frozen, strict (no "3" for 3), without unknown keys."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False
    )


Model = TypeVar("Model", bound=Section)


def parse_section(key: str, data: Mapping[str, Any], model: type[Model]) -> Model:
    """Reads settings that only one task or search knows.

    Args:
      key: where they are in the config, like `task_settings.mbpp`.
      data: what is there.
      model: says what may be there.

    Raises:
      BadInputError: one sentence with the key and what is wrong.
    """
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as err:
        raise BadInputError(explain(err, data, model, key)[1]) from err
