"""Checkpoints of the search, by Orbax: archives, bank and the next generation.

`checkpoints/<last generation in it>/` is a folder that Orbax wrote, and `SHA256SUMS` of
all its files in the form that `sha256sum -c` reads: Orbax would load some flipped bits
without a word. Equal states give equal bytes, so Orbax's two files that hold wall times
are left out.
"""

import hashlib
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np
import orbax.checkpoint as ocp

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.qd.archives import Archives
from cycleqd_jax.qd.bank import Bank

SUMS = "SHA256SUMS"
_KEPT = 2
_WALL_TIMES = ("_CHECKPOINT_METADATA", "commit_success.txt")
_BLOCKS = 3 * 4096  # room that one array takes beside its bytes, at most


class CycleState(NamedTuple):
    """All that a resumed run needs beside its settings and inputs.

    Attributes:
      archives: of all tasks.
      bank: every individual.
      next_generation: the t that comes next, from 1.
    """

    archives: Archives
    bank: Bank
    next_generation: int


class Checkpoints:
    """The checkpoints of one run folder; use it as a context manager.

    A checkpoint is made beside its place and renamed, so one that was cut short is
    never seen. The two newest are kept, so there is one when the other is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self._folder = pathlib.Path(folder).absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._checkpointer = ocp.Checkpointer(
            # One file per array: OCDBT packs them as threads happen to finish.
            ocp.StandardCheckpointHandler(use_ocdbt=False)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        self._checkpointer.close()

    def steps(self) -> list[int]:
        """Last generations of the checkpoints, damaged ones too, in order."""
        names = (entry.name for entry in self._folder.iterdir() if entry.is_dir())
        return sorted(int(name) for name in names if name.isdecimal())

    def save(self, state: CycleState) -> None:
        """Writes a state; returns when it is on disk.

        Checkpoints of later generations, which `restore` passed over, are removed.

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

    def restore(
        self,
        *,
        last: int | None = None,
        beyond: str = "",
        note: Callable[[str], None] | None = None,
    ) -> CycleState | None:
        """The newest whole state, or None where no checkpoint was ever written.

        What a killed process left unfinished is cleared away.

        Args:
          last: the last generation that it may hold; None for no limit.
          beyond: why not those after `last`.
          note: hears in one sentence of checkpoints that are passed over.

        Raises:
          BadInputError: there are checkpoints, but none that can be used; nothing was
            changed.
        """
        passed = []
        for step in reversed(self.steps()):
            late = last is not None and step > last
            found = beyond if late else self._load(step)
            if isinstance(found, CycleState):
                if passed and note is not None:
                    note(f"{'; '.join(passed)}; going on from checkpoint {step}.")
                self._tidy(step)
                return found
            passed.append(f"checkpoint {step} is passed over, {found}")
        if not passed:
            return None
        raise BadInputError(
            f"{self._folder}: no checkpoint can be used ({'; '.join(passed)}); bring "
            "one back from a copy, or start anew with run_dir=FOLDER."
        )

    def is_whole(self, step: int) -> bool:
        """Whether the checkpoint of a generation is there, undamaged."""
        folder = self._folder / str(step)
        return folder.is_dir() and _damage(folder) is None

    def _write(self, partial: pathlib.Path, state: CycleState) -> None:
        tree = {
            "archives": _escaped(state.archives.to_numpy()),
            "bank": _escaped(state.bank.to_numpy()),
            "next_generation": np.int64(state.next_generation),
        }
        arrays = [*tree["archives"].values(), *tree["bank"].values()]
        room = sum(array.nbytes + _BLOCKS for array in arrays) + 10 * _BLOCKS
        files.check_room(self._folder, room)
        self._checkpointer.save(partial, args=ocp.args.StandardSave(tree))
        for name in _WALL_TIMES:
            (partial / name).unlink(missing_ok=True)
        (partial / SUMS).write_text("".join(_lines(partial)), encoding="utf-8")
        for path in [*_files(partial).values(), partial / SUMS]:
            files.sync(path)

    def _load(self, step: int) -> CycleState | str:
        """The state of a checkpoint, or why it cannot be used."""
        folder = self._folder / str(step)
        damage = _damage(folder)
        if damage is not None:
            return damage
        try:
            args = ocp.args.StandardRestore()
            tree = self._checkpointer.restore(folder, args=args)
            return CycleState(
                archives=Archives.from_numpy(_unescaped(tree["archives"])),
                bank=Bank.from_numpy(_unescaped(tree["bank"])),
                next_generation=int(tree["next_generation"]),
            )
        except (KeyError, ValueError, TypeError, OSError) as err:
            return f"it was written by another version ({files.reason(err)})"

    def _tidy(self, step: int) -> None:
        # A process killed between writing one and removing the last but one leaves
        # three, and the rest of a checkpoint.
        self._remove_leftovers()
        for old in [s for s in self.steps() if s <= step][:-_KEPT]:
            self._remove(old)

    def _remove(self, step: int) -> None:
        # Renamed first: a checkpoint that is there is whole.
        gone = self._folder / f".{step}.removed"
        os.replace(self._folder / str(step), gone)
        shutil.rmtree(gone)

    def _remove_leftovers(self) -> None:
        for entry in self._folder.glob(".*"):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """All files below a folder but the sums, by relative name, in order."""
    paths = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {name: paths[name] for name in sorted(paths) if name != SUMS}


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lines(folder: pathlib.Path) -> list[str]:
    """What `SHA256SUMS` must hold."""
    return [f"{_digest(path)}  {name}\n" for name, path in _files(folder).items()]


def _damage(folder: pathlib.Path) -> str | None:
    """What is wrong with the files of a checkpoint; None if nothing is."""
    try:
        written = (folder / SUMS).read_bytes().decode("utf-8", "replace")
        lines = _lines(folder)
    except FileNotFoundError as err:
        return f"{pathlib.Path(err.filename).name} is missing"
    except OSError as err:
        return f"it cannot be read ({files.reason(err)})"
    if written == "".join(lines):
        return None
    odd = sorted(set(written.splitlines(keepends=True)) ^ set(lines))
    names = sorted({line.partition("  ")[2].strip() for line in odd})
    return f"{names[0] if len(names) == 1 and names[0] else SUMS} does not match"


def _escaped(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    # Orbax joins names with "." and makes paths of them. Empty arrays it cannot hold.
    return {name.replace("/", "__"): np.asarray(a) for name, a in arrays.items()}


def _unescaped(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.replace("__", "/"): np.asarray(a) for name, a in arrays.items()}
