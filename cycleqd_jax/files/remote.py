"""Files in a bucket or on a server, through fsspec: `gs://`, `s3://`, `https://`, ...

Weights are read there by ranges of bytes, or from their copies (`copied.py`); small
files are copied beside each other into the user's cache. A run can be copied there
while it goes on (`RemoteFolder`). fsspec
comes with the packages that this library needs; the client of a kind of bucket is a
package of its own (gcsfs, s3fs).
"""

import contextlib
import hashlib
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import disk

POINTER = "remote.json"  # in the copy of a folder: where it is, and its large files
_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_SMALL = (".json", ".jinja", ".model", ".txt")
_CALL = 1 << 28  # bytes that one request asks for
# Names under which servers report the version of a file.
_TAGS = ("etag", "ETag", "md5Hash", "generation", "crc32c", "created", "mtime")


def is_url(source: str) -> bool:
    """True if this names a file or folder on another machine, like gs://bucket/x."""
    return _URL.match(source) is not None


def is_on_disk(url: str) -> bool:
    """True if this names a file of this machine, or of a disk that it has mounted."""
    return url.startswith(("file://", "local://"))


def read(url: str) -> bytes:
    """The content of a small file.

    Raises:
      BadInputError: it is not there, or cannot be reached.
    """
    with _reaching(url):
        system, path = _open(url)
        return system.cat_file(path)


def copy_folder(url: str) -> pathlib.Path:
    """Copies the small files of a folder, and notes where its weights are.

    Args:
      url: of a model's or an adapter's folder.

    Returns:
      A folder in the user's cache with the present small files and `POINTER`; `find`
      tells where the others are.

    Raises:
      BadInputError: there is no such folder, or it cannot be reached.
    """
    url = url.rstrip("/")
    name = hashlib.sha256(url.encode()).hexdigest()[:32]
    folder = disk.cache_folder("cycleqd_jax", "remote", name)
    with _reaching(url):
        system, path = _open(url)
        listed = [
            entry["name"].rstrip("/").rpartition("/")[2]
            for entry in system.ls(path, detail=True, refresh=True)
            if entry["type"] == "file"
        ]
        small = {
            name: system.cat_file(f"{path.rstrip('/')}/{name}")
            for name in listed
            if name.endswith(_SMALL)
        }
    if not listed:
        raise BadInputError(f"{url}: there are no files")
    for old in folder.glob("*"):
        if old.name not in small and old.name != POINTER:
            old.unlink()
    for name, content in small.items():
        disk.write_bytes(folder / name, content)
    large = sorted(set(listed) - small.keys())
    disk.write_json(folder / POINTER, {"url": url, "files": large})
    return folder


def find(folder: pathlib.Path, name: str) -> pathlib.Path | str | None:
    """The path of a file of a folder, its URL if `copy_folder` left it, or None."""
    if (folder / name).exists():
        return folder / name
    url, names = _pointer(folder)
    return f"{url}/{name}" if name in names else None


def left_files(folder: pathlib.Path) -> list[str]:
    """Names of the files that `copy_folder` left where they are."""
    return _pointer(folder)[1]


def _pointer(folder: pathlib.Path) -> tuple[str, list[str]]:
    with contextlib.suppress(OSError):
        data = json.loads((folder / POINTER).read_text("utf-8"))
        return data["url"], data["files"]
    return "", []


class RemoteFile:
    """A file on another machine that is read by ranges of bytes.

    Attributes:
      size: in bytes.
      identity: a text that is another one whenever the content is.
      changed: 0 where `identity` can be trusted, because the server reports a version;
        else infinite, as if the file had changed just now.
    """

    def __init__(self, url: str, *, fresh: bool = False):
        """Looks a file up; `fresh`, its server is asked again.

        Raises:
          BadInputError: it is not there, or cannot be reached.
        """
        self._url = url
        with _reaching(url):
            self._system, self._path = _open(url)
            if fresh:
                self._system.invalidate_cache()
            info = self._system.info(self._path)
        self.size = int(info["size"])
        tags = {tag: str(info[tag]) for tag in _TAGS if info.get(tag)}
        self.identity = json.dumps([url, self.size, tags], sort_keys=True)
        self.changed = 0.0 if tags else float("inf")

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop - 1`."""
        with _reaching(self._url):
            return self._system.cat_file(self._path, start=start, end=stop)

    def read_into(self, buffer: np.ndarray, start: int) -> None:
        """Fills a buffer of uint8 from a place in the file.

        Raises:
          BadInputError: the file ends before, or cannot be reached any more.
        """
        for i in range(0, buffer.size, _CALL):
            part = buffer[i : i + _CALL]
            content = self.read(start + i, start + i + part.size)
            if len(content) != part.size:
                raise BadInputError(f"{self._url}: it ends at byte {start + i}")
            part[:] = np.frombuffer(content, np.uint8)


class RemoteFolder:
    """A folder on another machine that is written to.

    Names are relative to it and may have slashes. Some servers write in place, so a
    file may be incomplete; readers must be able to tell from its content.
    """

    def __init__(self, url: str):
        """Takes the URL; nothing is asked yet."""
        self.url = url.rstrip("/")

    def names(self) -> list[str]:
        """Names of all files, in order; none where there is no such folder.

        Raises:
          BadInputError: it cannot be reached.
        """
        with _reaching(self.url):
            system, path = _open(self.url)
            system.invalidate_cache()
            return sorted(name[len(path) :].lstrip("/") for name in system.find(path))

    def read(self, name: str) -> bytes:
        """The content of a small file; errors as for `read`."""
        return read(f"{self.url}/{name}")

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Writes small files, several at a time where the client can.

        Raises:
          BadInputError: they cannot be written.
        """
        with _reaching(self.url):
            system, path = _open(self.url)
            system.pipe({f"{path}/{n}": content for n, content in contents.items()})

    def upload(self, name: str, file: pathlib.Path) -> None:
        """Copies a file there; errors as for `write`."""
        with _reaching(self.url):
            system, path = _open(self.url)
            system.put_file(str(file), f"{path}/{name}")

    def download(self, name: str, file: pathlib.Path) -> None:
        """Copies a file here.

        Raises:
          BadInputError: it is not there, or cannot be reached.
        """
        with _reaching(f"{self.url}/{name}"):
            system, path = _open(self.url)
            system.get_file(f"{path}/{name}", str(file))

    def remove(self, names: Sequence[str]) -> None:
        """Removes files; errors as for `write`."""
        with _reaching(self.url):
            system, path = _open(self.url)
            for name in names:
                system.rm_file(f"{path}/{name}")


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    # On a disk, a file's folder must be there before it.
    options = {"auto_mkdir": True} if is_on_disk(url) else {}
    system, path = fsspec.core.url_to_fs(url, **options)
    return system, path.rstrip("/")


@contextlib.contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Turns whatever a client raises into one sentence."""
    kind = url.partition("://")[0]
    try:
        yield
    except FileNotFoundError as err:
        raise BadInputError(f"{url}: there is no such file or folder") from err
    except ImportError as err:
        package = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs"}.get(kind)
        remedy = f"pip install {package}" if package else disk.reason(err)
        raise BadInputError(
            f"{url}: the client of {kind}:// is not installed; type: {remedy}"
        ) from err
    except BadInputError:
        raise
    except Exception as err:  # the clients share no narrower class
        raise BadInputError(
            f"{url}: cannot be reached ({type(err).__name__}: {disk.reason(err)}); "
            "check the name, the network and your login"
        ) from err
