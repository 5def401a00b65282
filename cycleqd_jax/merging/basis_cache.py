"""Bases kept between runs: the same inputs and settings find theirs by fingerprint.

A basis of full fine-tunes takes minutes to hours to compute. It is kept once, in the
user's cache folder, and run folders link to it where they are on the same disk. It is
only ever a saving of time: where it cannot be kept, work goes on without it.
"""

import logging
import os
import pathlib
import shutil

import jax

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.basis_store import load_basis, save_basis
from cycleqd_jax.merging.core_basis import AnyBasis

_LOG = logging.getLogger(__name__)


def cached_basis_path(fingerprint: str) -> pathlib.Path:
    """Where the basis of a fingerprint belongs; it need not exist.

    `$XDG_CACHE_HOME/cycleqd_jax/bases/<fingerprint>`, by default under `~/.cache`.
    """
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = pathlib.Path(root).expanduser() / "cycleqd_jax" / "bases"
    return folder / f"{fingerprint}.safetensors"


def find_basis(fingerprint: str) -> AnyBasis | None:
    """The kept basis, or None where there is none that can be read."""
    path = cached_basis_path(fingerprint)
    if not path.is_file():
        return None
    try:
        stored = load_basis(path)
    except BadInputError as err:  # a damaged copy costs a computation, not the run
        _LOG.warning("%s", err)
        return None
    return stored.basis if stored.fingerprint == fingerprint else None


def keep_basis(basis: AnyBasis, fingerprint: str, settings: dict) -> bool:
    """Keeps a basis where half of the free disk holds it; says whether it is kept."""
    path = cached_basis_path(fingerprint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(basis))
        if size > shutil.disk_usage(path.parent).free // 2:
            _LOG.warning("The basis is not kept: %s has no room for it.", path.parent)
            return False
        save_basis(path, basis, fingerprint=fingerprint, settings=settings)
    except OSError as err:
        _LOG.warning("The basis is not kept in %s: %s.", path.parent, err.strerror)
        return False
    return True


def link_basis(fingerprint: str, target: pathlib.Path) -> bool:
    """Makes `target` the kept basis, without a copy; False where that cannot be."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.unlink(missing_ok=True)
        os.link(cached_basis_path(fingerprint), partial)
        os.replace(partial, target)
    except OSError:
        return False
    return True
