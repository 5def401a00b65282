"""Checkpoints of the search, by Orbax: bank, next generation, the search's memory.

`checkpoints/<last generation>/` is a folder that Orbax wrote, and `SHA256SUMS` with
the hashes of all its files in the form that `sha256sum -c` reads, because Orbax does
not notice every flipped bit. Equal states give equal bytes: Orbax's two files that hold
wall times are removed.
"""

import os
import pathlib
import shutil
from collections.abc import Callable
from typing import NamedTuple, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.search.base import State

_KEPT = 2
_WALL_TIMES = ("_CHECKPOINT_METADATA", "commit_success.txt")
_BLOCKS = 3 * 4096  # bytes that one array takes on disk beside its own, at most


class Saved(NamedTuple):
    """A checkpoint as it was read.

    Attributes:
      bank: every individual.
      next_generation: the t that comes next, from 1.
      memory: arrays of the search's own memory, in the order of its leaves.
    """

    bank: Bank
    next_generation: int
    memory: tuple[np.ndarray, ...]

    def into(self, like: State) -> State:
        """The state of a search whose memory has the structure of that of `like`.

        Raises:
          BadInputError: the memory has another structure or other shapes.
        """
        leaves, structure = jax.tree.flatten(like.memory)
        shapes = [(np.shape(leaf), np.asarray(leaf).dtype) for leaf in leaves]
        found = [(leaf.shape, leaf.dtype) for leaf in self.memory]
        if shapes != found:
            raise BadInputError(
                f"run_dir: the checkpoint after child {self.next_generation - 1} holds "
                f"the memory of another search ({len(found)} arrays, expected "
                f"{len(shapes)}); start anew with run_dir=FOLDER."
            )
        memory = jax.tree.unflatten(structure, self.memory)
        return State(self.bank, self.next_generation, memory)


class Checkpoints:
    """The checkpoints of one run folder; use it as a context manager.

    A checkpoint is written under another name and renamed, so a partial one is never
    visible. The two newest are kept in case the newest is damaged.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        saved: Callable[[], None] | None = None,
    ):
        """Opens the folder.

        Args:
          folder: made if it is not there.
          saved: is called when a checkpoint is on disk.
        """
        self._saved = saved
        self._folder = pathlib.Path(folder).absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._checkpointer = _checkpointer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        self._checkpointer.close()

    def steps(self) -> list[int]:
        """Last generations of the checkpoints, damaged ones too, in order."""
        return _steps(self._folder)

    def save(self, state: State) -> None:
        """Writes a state and returns when it is on disk.

        Removes checkpoints of later generations, which `restore` skipped.

        Raises:
          RunError: the disk is full or not writable; the checkpoints before it stay.
        """
        step = state.next_generation - 1
        place = self._folder / str(step)
        partial = self._folder / f".{step}{files.PARTIAL}"
        try:
            self._remove_leftovers()
            self._write(partial, state)
            for later in [s for s in self.steps() if s >= step]:
                self._remove(later)
            os.replace(partial, place)
            files.sync(self._folder)
            self._tidy(step)
        except (OSError, ValueError) as err:  # TensorStore's errors are ValueErrors
            self._remove_leftovers()
            raise files.cannot_write(place, err) from err
        if self._saved is not None:
            self._saved()

    def restore(
        self,
        *,
        last: int | None = None,
        beyond: str = "",
        note: Callable[[str], None] | None = None,
    ) -> Saved | None:
        """Reads the newest whole checkpoint; None if none was ever written.

        Removes what a killed process left unfinished.

        Args:
          last: skip checkpoints of later generations; None for no limit.
          beyond: the reason for skipping them.
          note: is told in one sentence which checkpoints were skipped, and why.

        Raises:
          BadInputError: there are checkpoints, but none can be used; nothing was
            changed.
        """
        passed = []
        for step in reversed(self.steps()):
            late = last is not None and step > last
            found = beyond if late else _load(self._checkpointer, self._folder, step)
            if isinstance(found, Saved):
                if passed and note is not None:
                    note(f"{'; '.join(passed)}; going on from checkpoint {step}.")
                self._tidy(step)
                return found
            passed.append(f"checkpoint {step} is skipped, {found}")
        if not passed:
            return None
        raise BadInputError(
            f"{self._folder}: no checkpoint can be used ({'; '.join(passed)}); bring "
            "one back from a copy, or start anew with run_dir=FOLDER."
        )

    def _write(self, partial: pathlib.Path, state: State) -> None:
        arrays = _arrays(state)
        tree = arrays | {"next_generation": np.array(state.next_generation, np.int64)}
        arrays = [array for group in arrays.values() for array in group.values()]
        room = sum(array.nbytes + _BLOCKS for array in arrays) + 10 * _BLOCKS
        files.check_room(self._folder, room)
        self._checkpointer.save(partial, args=ocp.args.PyTreeSave(tree))
        for name in _WALL_TIMES:
            (partial / name).unlink(missing_ok=True)
        (partial / files.SUMS).write_text("".join(_lines(partial)), encoding="utf-8")
        for path in [*_files(partial).values(), partial / files.SUMS]:
            files.sync(path)

    def _tidy(self, step: int) -> None:
        # A process that is killed before it removes the oldest leaves three of them.
        self._remove_leftovers()
        for old in [s for s in self.steps() if s <= step][:-_KEPT]:
            self._remove(old)

    def _remove(self, step: int) -> None:
        # Renamed first, so that every visible checkpoint is whole.
        gone = self._folder / f".{step}.removed"
        os.replace(self._folder / str(step), gone)
        shutil.rmtree(gone)

    def _remove_leftovers(self) -> None:
        for entry in self._folder.glob(".*"):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def newest_whole(folder: str | os.PathLike[str]) -> Saved | None:
    """The newest checkpoint that can be read; None where there is none.

    Changes nothing, so it may be called while another process writes to the folder.
    """
    folder = pathlib.Path(folder).absolute()
    with _checkpointer() as checkpointer:
        for step in reversed(_steps(folder)):
            found = _load(checkpointer, folder, step)
            if isinstance(found, Saved):
                return found
    return None


def damages(folder: pathlib.Path) -> dict[int, str]:
    """Last generation -> what is wrong, of the checkpoints that are damaged."""
    found = {step: _damage(folder / str(step)) for step in _steps(folder)}
    return {step: damage for step, damage in found.items() if damage is not None}


def last_generation(folder: pathlib.Path) -> int:
    """The last generation of all checkpoints, damaged ones too; 0 without any."""
    return max(_steps(folder), default=0)


def _checkpointer() -> ocp.Checkpointer:
    # Other processes of the run do not save, so nothing waits for them.
    alone = ocp.options.MultiprocessingOptions(active_processes={0})
    # Nothing changes the arrays while they are written, so they are not copied first.
    arrays = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    types = ocp.type_handlers.create_type_handler_registry((np.ndarray, arrays))
    # One file per array: OCDBT packs them as threads happen to finish.
    handler = ocp.PyTreeCheckpointHandler(
        multiprocessing_options=alone, use_ocdbt=False, type_handler_registry=types
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _steps(folder: pathlib.Path) -> list[int]:
    if not folder.is_dir():
        return []
    names = (entry.name for entry in folder.iterdir() if entry.is_dir())
    return sorted(int(name) for name in names if name.isdecimal())


def _load(
    checkpointer: ocp.Checkpointer, parent: pathlib.Path, step: int
) -> Saved | str:
    """A checkpoint, or the reason why it cannot be used."""
    folder = parent / str(step)
    damage = _damage(folder)
    if damage is not None:
        return damage
    try:
        args = ocp.args.PyTreeRestore()
        tree = checkpointer.restore(folder, args=args)
        memory = tree.get("memory", {})
        return Saved(
            Bank.from_numpy({n: np.asarray(a) for n, a in tree["bank"].items()}),
            int(tree["next_generation"]),
            tuple(np.asarray(memory[str(i)]) for i in range(len(memory))),
        )
    except (KeyError, ValueError, TypeError, OSError) as err:
        return f"it was written by another version ({files.reason(err)})"


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """All files below a folder except `SHA256SUMS`, by relative name, in order."""
    paths = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {name: paths[name] for name in sorted(paths) if name != files.SUMS}


def _lines(folder: pathlib.Path) -> list[str]:
    """The lines that `SHA256SUMS` must have."""
    return [f"{files.digest(path)}  {name}\n" for name, path in _files(folder).items()]


def _damage(folder: pathlib.Path) -> str | None:
    """Says what is wrong with the files of a checkpoint; None if they are whole."""
    try:
        written = (folder / files.SUMS).read_bytes().decode("utf-8", "replace")
        lines = _lines(folder)
    except FileNotFoundError as err:
        return f"{pathlib.Path(err.filename).name} is missing"
    except OSError as err:
        return f"it cannot be read ({files.reason(err)})"
    if written == "".join(lines):
        return None
    odd = sorted(set(written.splitlines(keepends=True)) ^ set(lines))
    names = sorted({line.partition("  ")[2].strip() for line in odd})
    return f"{names[0] if len(names) == 1 and names[0] else files.SUMS} does not match"


def _arrays(state: State) -> dict[str, dict[str, np.ndarray]]:
    """All arrays of a state, by group and name."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state.memory)]
    memory = {str(i): leaf for i, leaf in enumerate(leaves)}
    return {"bank": state.bank.to_numpy()} | ({"memory": memory} if memory else {})


def state_fingerprint(state: State | Saved) -> str:
    """SHA-256 over all arrays of a state, 64 hexadecimal digits."""
    groups = _arrays(state)
    return files.hash_arrays(
        {f"{g}/{n}": a for g in groups for n, a in groups[g].items()}
    )
