"""Makes a basis batch by batch, each stored before the next one, so that work resumes.

The basis of an 8B model takes minutes to hours, and may be larger than the memory that
is left. So the blocks of each batch go into a file of their own; the basis is put
together from these files, one array at a time.
"""

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.merging.basis import assemble
from cycleqd_jax.merging.blocks import Batch, Block, batches, decompose, is_alone
from cycleqd_jax.merging.forms import DiagonalBasis
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.merging.task_vectors import ParameterDeltas
from cycleqd_jax.models.formats.tensor_file import (
    StoredArray,
    TensorFile,
    write_tensors,
)

_ON_DISK = ("u", "v", "residual", "delta")  # fields that are read when they are used
_IN_MEMORY = ("values", "energy", "kept")


def factorise(
    folder: Path,
    task_vectors: Iterable[ParameterDeltas],
    expert_names: Sequence[str],
    settings: BasisSettings,
    dtype: str = "float32",
    progress: Callable[[int], None] = lambda done: None,
) -> DiagonalBasis:
    """Computes what is not stored in a folder yet, and stores it there.

    Killed and called again, it goes on after the last batch that was stored, with the
    same result.

    Args:
      folder: of this basis alone; it is made where there is none.
      task_vectors: from `conditioned_task_vectors`; those of stored parameters are not
        computed.
      expert_names: K names.
      settings: as for `build_basis`.
      dtype: likewise.
      progress: hears how many parameters are done.

    Returns:
      The basis as `build_basis` returns it, but its arrays are `StoredArray`s: they are
      read from the folder's files when they are used.

    Raises:
      BadInputError: as for `build_basis`.
      RunError: the disk is full or not writable, or another process makes this basis;
        what is stored stays.
    """
    with _locked(folder):
        parts: list[Path] = []
        done = 0

        def missing() -> Iterator[Batch]:
            nonlocal done
            for batch in batches(task_vectors, alone=is_alone(settings)):
                parts.append(_part(folder, batch))
                if _is_whole(parts[-1]):
                    done += len(batch)
                    progress(done)
                else:
                    yield batch

        for batch, blocks in decompose(missing(), settings, dtype):
            _write(_part(folder, batch), blocks)
            done += len(batch)
            progress(done)
        blocks = [block for path in parts for block in _read(path)]
        return assemble(blocks, expert_names, dtype)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out; the lock ends with this process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "wb")
    except OSError as err:
        raise files.cannot_write(folder, err) from err
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            raise RunError(
                f"basis: another process is working in {folder}; wait until it is done."
            ) from err
        yield


def _part(folder: Path, batch: Batch) -> Path:
    names = json.dumps([row.name for row in batch])
    return folder / f"{hashlib.sha256(names.encode()).hexdigest()[:32]}.safetensors"


def _is_whole(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        TensorFile(path)
    except BadInputError:  # the disk damaged it: it is made again
        return False
    return True


def _write(path: Path, blocks: Sequence[Block]) -> None:
    arrays = {}
    for block in blocks:
        for field in (*_ON_DISK, *_IN_MEMORY):
            if (array := getattr(block, field)) is not None:
                arrays[f"{field}/{block.name}"] = array
    files.write_atomically(path, lambda partial: write_tensors(partial, arrays, {}))


def _read(path: Path) -> list[Block]:
    file, found = TensorFile(path), {}
    for key in file:
        field, _, name = key.partition("/")
        stored = StoredArray(file, key)
        array = np.asarray(stored) if field in _IN_MEMORY else stored
        found.setdefault(name, {})[field] = array
    return [Block(name, **fields) for name, fields in found.items()]
