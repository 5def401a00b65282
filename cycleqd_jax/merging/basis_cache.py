"""Bases in the user's cache, by the fingerprint of what they were made from.

The basis of full fine-tunes takes minutes to hours to compute, so that other runs of
the same experts find it here. Where the cache cannot be read or written, the run
computes the basis and goes on, unless it is so large that its work is stored there.
"""

import contextlib
import dataclasses
import functools
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import jax

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.merging.basis_store import (
    Placement,
    load_basis,
    on_first_device,
    save_basis,
)
from cycleqd_jax.merging.forms import Basis

_LOG = logging.getLogger(__name__)


def kept_path(fingerprint: str) -> Path:
    """The path of a basis in the user's cache; it need not exist.

    `$XDG_CACHE_HOME/cycleqd_jax/bases/<fingerprint>.safetensors`, by default in
    `~/.cache`.
    """
    return files.cache_folder("cycleqd_jax", "bases") / f"{fingerprint}.safetensors"


@dataclasses.dataclass(frozen=True)
class BasisKey:
    """The name of a basis, which may be known only when its experts have been read.

    Attributes:
      find: returns the fingerprint, from `basis_fingerprint`, and reads what it must.
      is_known: whether it need not read.
      find_sample: returns a hash that bases of one fingerprint have in common, and most
        others have not; it reads little.
      work: the name of the folder in which a large basis is made: another one whenever
        the files of the experts are.
      is_settled: whether every change of the files changes `work`.
    """

    find: Callable[[], str]
    is_known: bool
    find_sample: Callable[[], str]
    work: str
    is_settled: bool = True

    @classmethod
    def known(cls, fingerprint: str) -> "BasisKey":
        """The key of a fingerprint."""
        return cls(lambda: fingerprint, True, lambda: fingerprint, fingerprint)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The fingerprint."""
        return self.find()

    @functools.cached_property
    def sample(self) -> str:
        """The sample."""
        return self.find_sample()

    @property
    def may_be_kept(self) -> bool:
        """False if no basis of the user's cache can be this one; reads no expert."""
        if self.is_known:
            return True
        try:
            last = self._note.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return False
        return kept_path(last).is_file()

    @property
    def kept(self) -> Path:
        """The file in the user's cache; it need not exist."""
        return kept_path(self.fingerprint)

    def note(self) -> None:
        """Notes that the basis is kept, for `may_be_kept` of other processes."""
        if self.sample != self.fingerprint:
            with contextlib.suppress(RunError):  # costs one more reading
                files.write_text(self._note, self.fingerprint)

    @property
    def _note(self) -> Path:
        return files.cache_folder("cycleqd_jax", "samples") / self.sample


def obtain_basis(
    key: BasisKey,
    compute: Callable[[], Basis],
    *,
    file: Path | None = None,
    keep: bool = True,
    place: Placement = on_first_device,
    factorise: Callable[[Path], Basis] | None = None,
) -> Basis:
    """The basis of a fingerprint: from a file, else from the cache, else computed.

    Args:
      key: of the basis.
      compute: makes the basis; called only where it is stored nowhere.
      file: of the run folder, if there is one. A basis of another fingerprint in it is
        passed over.
      keep: whether the user's cache is read, and written after a computation.
      place: where the arrays of a stored basis go.
      factorise: makes a large basis, with its work in the folder that it is given; used
        instead of `compute` where the basis is kept.

    Raises:
      BadInputError: the file is damaged or of another format, or `compute` raises it.
      RunError: `factorise` cannot store its work.
    """
    if file is not None and file.is_file():
        stored = load_basis(file, place)
        if stored.fingerprint == key.fingerprint:
            return stored.basis
    if not keep:
        return compute()
    basis = _find_kept(key.fingerprint, place) if key.may_be_kept else None
    if basis is None and factorise is not None:
        return load_basis(make_kept(key, factorise), place).basis
    if basis is None:
        basis = compute()
        _keep(basis, key)
    return basis


def find_basis(fingerprint: str, file: Path) -> Basis:
    """The basis of a fingerprint, from the file of a run or from the user's cache.

    Raises:
      BadInputError: it is in neither of them.
    """

    def compute() -> Basis:
        raise BadInputError(
            f"basis: there is no file {file} with the basis of these experts; copy it "
            "there from the run, or put the run folder on a file system that all hosts "
            "share."
        )

    return obtain_basis(BasisKey.known(fingerprint), compute, file=file)


def has_room(size: int) -> bool:
    """True if a basis of so many bytes takes at most half of the free disk space.

    Its parts and its file are there together for a while.
    """
    return size <= files.free_bytes() // 2


def make_kept(key: BasisKey, factorise: Callable[[Path], Basis]) -> Path:
    """Makes a basis with its work on the disk, and keeps it in the user's cache.

    Returns:
      The file of the basis.

    Raises:
      BadInputError: `factorise` raises it.
      RunError: the disk is full or not writable; what was done is kept, and used by the
        next call.
    """
    parts = kept_path(key.work).with_suffix(".parts")
    _check_work(key, parts / "fingerprint")
    basis = factorise(parts)  # before the fingerprint, which it may make known
    save_basis(key.kept, basis, fingerprint=key.fingerprint)
    key.note()
    shutil.rmtree(parts, ignore_errors=True)
    return key.kept


def _check_work(key: BasisKey, note: Path) -> None:
    """Throws work away that was begun with files which have changed unnoticed since."""
    try:
        if note.is_file() and note.read_bytes() != key.fingerprint.encode():
            shutil.rmtree(note.parent)
        if not key.is_settled:
            note.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(note, key.fingerprint)
    except OSError as err:
        raise files.cannot_write(note.parent, err) from err


def _find_kept(fingerprint: str, place: Placement) -> Basis | None:
    path = kept_path(fingerprint)
    if not path.is_file():
        return None
    try:
        stored = load_basis(path, place)
    except BadInputError as err:  # computing it again is slow, but not an error
        _LOG.warning("The kept basis is computed again: %s", err)
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    return stored.basis if stored.fingerprint == fingerprint else None


def _keep(basis: Basis, key: BasisKey) -> None:
    """Writes a basis to the cache if that takes at most half of the free disk space."""
    path = key.kept
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not has_room(sum(leaf.nbytes for leaf in jax.tree.leaves(basis))):
            _LOG.warning("The basis is not kept: %s has no room for it.", path.parent)
            return
        save_basis(path, basis, fingerprint=key.fingerprint)
        key.note()
    except OSError as err:
        _LOG.warning("The basis is not kept in %s: %s.", path.parent, err.strerror)
    except RunError as err:
        _LOG.warning("The basis is not kept: %s", err)
