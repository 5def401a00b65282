"""A copy of a run folder in a bucket, from which the run can be resumed anywhere.

A run works in its local folder, where locks and renames hold. After every checkpoint
the folder's files are copied to `<URL>/files/<name>.<hash of the content>`, so that
none replaces another, and then `<URL>/manifest-<number>.json` is written, which names
all files of that moment with their checksums. So the newest readable manifest always
names a whole run, even if copying was interrupted. Files that neither it nor the one
before it names are removed.
"""

import json
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.files.remote import RemoteFolder
from cycleqd_jax.runs.checkpoints import last_generation
from cycleqd_jax.runs.fingerprints import stored_fingerprints
from cycleqd_jax.runs.folder import RunFolder

UNFINISHED = "fetching"  # a file in a folder that is not fetched whole
_MANIFEST = re.compile(r"manifest-(\d{12})\.json")
_FILES = "files"
_PROBE = "probe"
_SMALL = 1 << 26  # bytes; smaller files are written several at a time
_TRIES = 6
_FIRST_WAIT_S = 1.0  # doubled each time: 31 s in all


def open_mirror(
    url: str | None,
    folder: RunFolder,
    *,
    resume: bool,
    trial: bool,
    note: Callable[[str], None],
) -> "Mirror | None":
    """Opens the copy of a run, and fetches the run if the local folder has none.

    Args:
      url: of the copy; None for a run without one.
      folder: open.
      resume: whether there may be a run in the copy.
      trial: whether to change nothing here.
      note: is told in a sentence if the run was fetched.

    Raises:
      BadInputError: as for `Mirror.open`; or the folder is half fetched, but there is
        no URL.
    """
    if url is None:
        if (folder.path / UNFINISHED).exists():
            raise BadInputError(
                f"run_dir: {folder.path} was not fetched whole from a mirror; add "
                "mirror=URL to go on with that, or choose another with run_dir=FOLDER."
            )
        return None
    mirror = Mirror(url, folder)
    if done := mirror.open(resume=resume, trial=trial):
        note(done)
    return mirror


def fetched(url: str) -> pathlib.Path:
    """The newest state of a run in a bucket, as a folder in the user's cache.

    Raises:
      BadInputError: there is none, or it cannot be reached.
    """
    name = files.digest_of(url.rstrip("/").encode())[:32]
    path = files.cache_folder("cycleqd_jax", "runs", name)
    with RunFolder(path, resume=True) as folder:
        Mirror(url, folder).fetch()
    return path


class Mirror:
    """The copy of one run; nothing is asked before `open`."""

    def __init__(
        self, url: str, folder: RunFolder, *, wait: Callable[[float], None] = time.sleep
    ):
        """Takes the copy's URL and the open folder of the run.

        Args:
          url: of a folder of its own, like gs://bucket/runs/paper.
          folder: open.
          wait: is called with seconds between tries.
        """
        self._remote = RemoteFolder(url)
        self._folder = folder
        self._wait = wait
        self._number = 0
        self._newest: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self._tried = b""  # the newest manifest of this process, perhaps cut off
        self._known: dict[str, tuple[tuple[int, int], str]] = {}  # stamp, hash

    def open(self, *, resume: bool, trial: bool = False) -> str | None:
        """Brings the local folder up to the copy, if there is one.

        Args:
          resume: whether there may be a run.
          trial: whether to change nothing here.

        Returns:
          A sentence on what was done; None if there was nothing to do.

        Raises:
          BadInputError: the bucket cannot be reached or written; it has a run although
            `resume` is False, another run than the folder, or a later state of it.
        """
        self._remote.write({_PROBE: b"cycleqd_jax\n"})
        names = self._remote.names()
        self._read_newest(names)
        url, path = self._remote.url, self._folder.path
        if not self._newest:
            return None
        if not resume:
            raise BadInputError(
                f"mirror: {url} holds a run; add --resume to go on with it, or choose "
                "another with mirror=URL."
            )
        here = [p for p in path.iterdir() if p.name != "lock"]
        if here and not (path / UNFINISHED).exists():
            self._check_not_behind()
            return None
        if trial:
            return f"the run in {url} is fetched when it goes on."
        self._fetch()
        children = self._newest["generation"]
        return f"the run was fetched from {url}: {children} children are done."

    def fetch(self) -> None:
        """Makes the folder the newest state of the copy, whatever is in it.

        Raises:
          BadInputError: the copy has no run, is damaged or cannot be reached.
        """
        self._read_newest(self._remote.names())
        if not self._newest:
            raise BadInputError(f"{self._remote.url}: there is no run's mirror.")
        self._fetch()

    def sync(self) -> None:
        """Copies what is new; afterwards the copy has the folder's present state.

        Raises:
          RunError: the bucket cannot be reached after some tries, or another process
            writes there; the local folder is whole.
        """
        for left in reversed(range(_TRIES)):
            try:
                return self._sync()
            except BadInputError as err:
                if not left:
                    raise RunError(
                        f"mirror: {str(err).rstrip('.')}, after {_TRIES} tries; the "
                        f"run in {self._folder.path} is whole, so see to the bucket "
                        "and go on with --resume, or without a mirror with mirror=null."
                    ) from err
                self._wait(_FIRST_WAIT_S * 2 ** (_TRIES - 1 - left))

    def _sync(self) -> None:
        names = self._remote.names()
        numbers = [int(found[1]) for n in names if (found := _MANIFEST.fullmatch(n))]
        newest = max(numbers, default=0)
        if newest > self._number and not self._is_ours(newest):
            raise RunError(
                f"mirror: another process writes a run to {self._remote.url}; end one "
                f"of them. The run in {self._folder.path} is whole."
            )
        there = set(names)
        listed: dict[str, str] = {}
        small: dict[str, bytes] = {}
        for name, path in self._present().items():
            listed[name], content = self._hashed(name, path)
            place = _place(name, listed[name])
            if place in there:
                continue
            if content is not None or path.stat().st_size < _SMALL:
                # Read once: a log may grow meanwhile.
                content = path.read_bytes() if content is None else content
                listed[name] = files.digest_of(content)
                small[_place(name, listed[name])] = content
                if sum(map(len, small.values())) >= _SMALL:
                    self._remote.write(small)
                    small = {}
            else:
                self._remote.upload(place, path)
        if small:
            self._remote.write(small)
        if listed == self._newest.get("files"):
            return
        manifest = {
            "files": listed,
            "generation": last_generation(self._folder.checkpoints),
            "run": _identity(self._folder.path),
        }
        self._tried = files.sealed(manifest).encode()
        self._remote.write({_manifest_name(self._number + 1): self._tried})
        self._number += 1
        self._before, self._newest = self._newest, manifest
        self._remove_old(self._remote.names())

    def _is_ours(self, number: int) -> bool:
        """True for a manifest of this process whose writing was reported as failed."""
        if number > self._number + 1 or not self._tried:
            return False
        return self._tried.startswith(self._remote.read(_manifest_name(number)))

    def _present(self) -> dict[str, pathlib.Path]:
        """Files of the folder by relative name, in order; none that is half written."""
        root, found = self._folder.path, {}
        for path in sorted(root.rglob("*")):
            inner = path.relative_to(root)
            hidden = any(part.startswith(".") for part in inner.parts)
            if path.is_file() and not hidden and str(inner) not in ("lock", UNFINISHED):
                found[inner.as_posix()] = path
        # Orbax's own hidden files are listed in a checkpoint's checksums.
        for path in sorted(root.glob("checkpoints/[0-9]*/**/.*")):
            if path.is_file():
                found[path.relative_to(root).as_posix()] = path
        return found

    def _hashed(self, name: str, path: pathlib.Path) -> tuple[str, bytes | None]:
        """The hash of a file, and its content where that was read for it."""
        facts = path.stat()
        stamp = (facts.st_size, facts.st_mtime_ns)
        if name in self._known and self._known[name][0] == stamp:
            return self._known[name][1], None
        content = path.read_bytes() if facts.st_size < _SMALL else None
        found = files.digest(path) if content is None else files.digest_of(content)
        self._known[name] = (stamp, found)
        return found, content

    def _remove_old(self, names: list[str]) -> None:
        wanted = {_manifest_name(self._number - i) for i in (0, 1)}
        for manifest in (self._newest, self._before):
            wanted |= {_place(n, h) for n, h in manifest.get("files", {}).items()}
        ours = [
            n for n in names if _MANIFEST.fullmatch(n) or n.startswith(f"{_FILES}/")
        ]
        self._remote.remove([name for name in ours if name not in wanted])

    def _read_newest(self, names: list[str]) -> None:
        manifests = sorted((n for n in names if _MANIFEST.fullmatch(n)), reverse=True)
        for name in manifests:
            try:
                text = json.loads(self._remote.read(name))
                found = files.unsealed(text, f"{self._remote.url}/{name}")
            except (ValueError, BadInputError):  # it was being written
                continue
            self._number = int(_MANIFEST.fullmatch(manifests[0])[1])
            self._newest = found
            return
        if manifests:
            raise BadInputError(
                f"mirror: {self._remote.url} has no manifest that can be read; bring "
                "one back from a copy, or choose another with mirror=URL."
            )

    def _check_not_behind(self) -> None:
        path, url = self._folder.path, self._remote.url
        done, there = last_generation(self._folder.checkpoints), self._newest
        if _identity(path) != there["run"]:
            raise BadInputError(
                f"mirror: {url} holds another run than {path}; choose another URL with "
                "mirror=URL, or another folder with run_dir=FOLDER."
            )
        if done < there["generation"]:
            raise BadInputError(
                f"mirror: the run in {url} has {there['generation']} children, that "
                f"in {path} only {done}; move {path} away, and the other is fetched."
            )

    def _fetch(self) -> None:
        root = self._folder.path
        files.write_text(root / UNFINISHED, f"{self._remote.url}\n")
        wanted = self._newest["files"]
        for name, path in self._present().items():
            if name not in wanted:
                path.unlink()
        for name, digest in wanted.items():
            path = root / name
            if path.is_file() and files.digest(path) == digest:
                continue
            place = _place(name, digest)
            files.write_atomically(
                path, lambda partial, place=place: self._remote.download(place, partial)
            )
            if files.digest(path) != digest:
                raise BadInputError(
                    f"mirror: {self._remote.url}/{place} is damaged: its checksum is "
                    "not that in the manifest; bring it back from a copy."
                )
        (root / UNFINISHED).unlink()


def _manifest_name(number: int) -> str:
    return f"manifest-{number:012d}.json"


def _place(name: str, digest: str) -> str:
    return f"{_FILES}/{name}.{digest[:16]}"


def _identity(path: pathlib.Path) -> str:
    """A hash of what the run in a folder was begun with."""
    return files.hash_arrays({}, stored_fingerprints(path))
