"""Checkpoints of one expert's training, by Orbax.

A checkpoint holds the trained parameters, the state of the optimiser and the metrics of
all updates so far. The order of the data is a function of the seed, so a resumed
training ends with the same bits as an uninterrupted one.
"""

import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from cycleqd_jax.errors import RunError
from cycleqd_jax.models.experts import weights_fingerprint
from cycleqd_jax.training.step import StepMetrics, TrainState

_LOG = logging.getLogger(__name__)


class Progress(NamedTuple):
    """Attributes: the state after some updates, and the metrics of these updates."""

    state: TrainState
    history: tuple[StepMetrics, ...]


class TrainCheckpoints:
    """The checkpoints in one folder; use it as a context manager.

    A checkpoint is named after its last update. It is renamed into place when it is
    complete.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int,
        validation: Sequence[str] = (),
    ):
        """Opens a folder.

        Args:
          folder: created if missing.
          keep: how many checkpoints to keep; two survive the damage of one.
          validation: tasks whose losses are in the history, in a fixed order.
        """
        self._validation = tuple(validation)
        self._folder = pathlib.Path(folder).absolute()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        self._manager.close()

    def save(self, progress: Progress) -> None:
        """Writes a checkpoint and waits until it is on disk.

        Raises:
          RunError: it could not be written.
        """
        step = progress.history[-1].step
        tree = _arrays(progress.state) | {
            "loss": np.asarray([row.loss for row in progress.history]),
            "token_accuracy": np.asarray(
                [row.token_accuracy for row in progress.history]
            ),
        }
        if self._validation:
            tree["validation"] = _validation(progress.history, self._validation)
        tree["digest"] = _digest(tree)
        # Orbax refuses to overwrite a (damaged) checkpoint of the same step.
        if step in self._manager.all_steps():
            self._manager.delete(step)
        try:
            written = self._manager.save(step, args=ocp.args.StandardSave(tree))
            self._manager.wait_until_finished()
        except (OSError, ValueError) as err:  # TensorStore's errors are ValueErrors
            raise RunError(
                f"Checkpoint {step} was not written to {self._folder} ({err}); make "
                "room there and run the command again."
            ) from err
        if not written:
            raise RunError(f"Checkpoint {step} was not written to {self._folder}.")

    def restore(self, like: TrainState) -> Progress | None:
        """Reads the newest undamaged checkpoint; None if there is no checkpoint.

        Args:
          like: a state of the same structure, or its shapes and dtypes.

        Raises:
          RunError: there are checkpoints, but all are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            found = self._load(step, like)
            if found is not None:
                return found
            _LOG.warning("Checkpoint %s in %s is damaged.", step, self._folder)
        if steps:
            raise RunError(
                f"The checkpoints {steps} in {self._folder} are damaged; restore "
                "them from a copy, or remove the folder to start again."
            )
        return None

    def _load(self, step: int, like: TrainState) -> Progress | None:
        names = _arrays(like)
        empty = {name: np.zeros(x.shape, x.dtype) for name, x in names.items()}
        empty |= {name: np.zeros(step) for name in ("loss", "token_accuracy")}
        if self._validation:
            empty["validation"] = np.zeros((step, 2, len(self._validation)))
        empty["digest"] = np.zeros(32, np.uint8)
        try:
            tree = self._manager.restore(step, args=ocp.args.StandardRestore(empty))
        except (ValueError, KeyError, TypeError, OSError):
            return None
        digest = tree.pop("digest")
        if not np.array_equal(digest, _digest(tree)):
            return None
        rows = list(
            zip(tree["loss"].tolist(), tree["token_accuracy"].tolist(), strict=True)
        )
        if self._validation:
            found = tree["validation"].tolist()
            rows = [
                (*row, *_by_task(self._validation, pair))
                for row, pair in zip(rows, found, strict=True)
            ]
        leaves = [jax.numpy.array(tree[name]) for name in names]
        return Progress(
            jax.tree.unflatten(jax.tree.structure(like), leaves),
            tuple(StepMetrics(i, *row) for i, row in enumerate(rows, start=1)),
        )


def _arrays(state: TrainState) -> dict[str, Any]:
    """The leaves under plain names: Orbax would use a tree's own names as paths."""
    return {f"leaf_{i:06d}": x for i, x in enumerate(jax.tree.leaves(state))}


def _validation(history: Sequence[StepMetrics], tasks: Sequence[str]) -> np.ndarray:
    """Validation loss and token accuracy, `[steps, 2, tasks]`; NaN where not made."""
    found = np.full((len(history), 2, len(tasks)), np.nan)
    for row, metrics in zip(found, history, strict=True):
        if metrics.validation_loss is not None:
            row[0] = [metrics.validation_loss[task] for task in tasks]
            row[1] = [metrics.validation_token_accuracy[task] for task in tasks]
    return found


def _by_task(
    tasks: Sequence[str], pair: Sequence[Sequence[float]]
) -> list[dict[str, float] | None]:
    """Loss and token accuracy by task, as they are in `StepMetrics`."""
    return [
        None if np.isnan(values).any() else dict(zip(tasks, values, strict=True))
        for values in pair
    ]


def _digest(tree: dict[str, Any]) -> np.ndarray:
    """Sha256 of all arrays: Orbax does not detect every flipped bit."""
    text = weights_fingerprint({name: np.asarray(x) for name, x in tree.items()})
    return np.frombuffer(bytes.fromhex(text), np.uint8)
