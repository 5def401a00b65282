"""Checkpoints of the search, by Orbax: archives, bank and the next generation."""

import os
import pathlib
from typing import NamedTuple, Self

import numpy as np
import orbax.checkpoint as ocp

from cycleqd_jax.errors import RunError
from cycleqd_jax.qd.archives import Archives
from cycleqd_jax.qd.bank import Bank

_KEPT = 2


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

    A checkpoint is named by the last generation in it. It is written beside its place
    and renamed, so one that was cut short is never seen.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self._folder = pathlib.Path(folder).absolute()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=_KEPT,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        self._manager.close()

    def save(self, state: CycleState) -> None:
        """Writes a state; returns when it is on disk."""
        tree = {
            "archives": _escaped(state.archives.to_numpy()),
            "bank": _escaped(state.bank.to_numpy()),
            "next_generation": np.int64(state.next_generation),
        }
        step = state.next_generation - 1
        if not self._manager.save(step, args=ocp.args.StandardSave(tree)):
            raise RunError(f"Checkpoint {step} was not written to {self._folder}.")
        self._manager.wait_until_finished()

    def restore(self) -> CycleState | None:
        """The newest state, or None where there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        tree = self._manager.restore(step, args=ocp.args.StandardRestore())
        return CycleState(
            archives=Archives.from_numpy(_unescaped(tree["archives"])),
            bank=Bank.from_numpy(_unescaped(tree["bank"])),
            next_generation=int(tree["next_generation"]),
        )


def _escaped(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    # Orbax joins names with "." and makes paths of them. Empty arrays it cannot hold.
    return {name.replace("/", "__"): np.asarray(a) for name, a in arrays.items()}


def _unescaped(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.replace("__", "/"): np.asarray(a) for name, a in arrays.items()}
