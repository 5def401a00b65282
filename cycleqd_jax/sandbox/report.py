"""Reads the supervisor's report."""

import dataclasses
import os

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox._collect import MAX_ENTRIES, MAX_PATH_BYTES

_MAX_HEADER_BYTES = 128
_END = b"end 0 0\n"
_MAX_OVERHEAD_BYTES = MAX_ENTRIES * (MAX_PATH_BYTES + _MAX_HEADER_BYTES)


@dataclasses.dataclass(frozen=True)
class Report:
    """The supervisor's report.

    Attributes:
      reason: exited, signalled, cpu, wall, memory, files or stopped.
      code: exit status or signal number, if `reason` has one.
      files: as `Execution.files`.
    """

    reason: str
    code: int
    files: dict[str, bytes]


def read_report(fd: int, collect_bytes: int) -> Report:
    """Reads a report from the file `fd`.

    Raises:
      SandboxError: the report is missing, incomplete or too long.
    """
    size = os.fstat(fd).st_size
    if size > collect_bytes + _MAX_OVERHEAD_BYTES:
        raise SandboxError(f"the sandbox's report has {size} bytes, more than allowed")
    data = os.pread(fd, size, 0)
    try:
        return _parse(data)
    except ValueError as error:
        raise SandboxError(
            f"the sandbox ended without a complete report: {error}"
        ) from error


def parse_entries(data: bytes) -> dict[str, bytes]:
    """Files and empty folders from the entries that a `Collector` writes.

    Raises:
      ValueError: they are damaged.
    """
    files = {}
    position = 0
    while position < len(data):
        (kind, *sizes), position = _header(data, position)
        name_bytes, content_bytes = (int(size) for size in sizes)
        middle = position + name_bytes
        end = middle + content_bytes
        if kind not in ("d", "f") or not position <= middle <= end <= len(data):
            raise ValueError("an entry is damaged")
        files[os.fsdecode(data[position:middle])] = data[middle:end]
        position = end
    return files


def _parse(data: bytes) -> Report:
    (reason, code, _), position = _header(data, 0)
    if not data.endswith(_END):
        raise ValueError("its end is missing")
    return Report(reason, int(code), parse_entries(data[position : -len(_END)]))


def _header(data: bytes, position: int) -> tuple[list[str], int]:
    end = data.index(b"\n", position, position + _MAX_HEADER_BYTES)
    return data[position:end].decode("ascii").split(), end + 1
