"""Bases in the user's cache, by the fingerprint of what they were made from.

The basis of full fine-tunes takes minutes to hours to compute, so that other runs of
the same experts find it here. Where the cache cannot be read or written, the run
computes the basis and goes on, unless it is so large that its work is stored there.
"""

import contextlib
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


def obtain_basis(
    fingerprint: str,
    compute: Callable[[], Basis],
    *,
    file: Path | None = None,
    keep: bool = True,
    place: Placement = on_first_device,
    factorise: Callable[[Path], Basis] | None = None,
) -> Basis:
    """The basis of a fingerprint: from a file, else from the cache, else computed.

    Args:
      fingerprint: from `basis_fingerprint`.
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
        if stored.fingerprint == fingerprint:
            return stored.basis
    if not keep:
        return compute()
    basis = _find_kept(fingerprint, place)
    if basis is None and factorise is not None:
        return load_basis(make_kept(fingerprint, factorise), place).basis
    if basis is None:
        basis = compute()
        _keep(basis, fingerprint)
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

    return obtain_basis(fingerprint, compute, file=file)


def has_room(size: int) -> bool:
    """True if a basis of so many bytes takes at most half of the free disk space.

    Its parts and its file are there together for a while.
    """
    return size <= files.free_bytes() // 2


def make_kept(fingerprint: str, factorise: Callable[[Path], Basis]) -> Path:
    """Makes a basis with its work on the disk, and keeps it in the user's cache.

    Returns:
      The file of the basis.

    Raises:
      BadInputError: `factorise` raises it.
      RunError: the disk is full or not writable; what was done is kept, and used by the
        next call.
    """
    path = kept_path(fingerprint)
    parts = path.with_suffix(".parts")
    save_basis(path, factorise(parts), fingerprint=fingerprint)
    shutil.rmtree(parts, ignore_errors=True)
    return path


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


def _keep(basis: Basis, fingerprint: str) -> None:
    """Writes a basis to the cache if that takes at most half of the free disk space."""
    path = kept_path(fingerprint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not has_room(sum(leaf.nbytes for leaf in jax.tree.leaves(basis))):
            _LOG.warning("The basis is not kept: %s has no room for it.", path.parent)
            return
        save_basis(path, basis, fingerprint=fingerprint)
    except OSError as err:
        _LOG.warning("The basis is not kept in %s: %s.", path.parent, err.strerror)
    except RunError as err:
        _LOG.warning("The basis is not kept: %s", err)
