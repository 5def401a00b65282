"""Rows about full archives: their memory, and the time of saving and restoring them."""

import pathlib

import jax

from cycleqd_jax.runs.checkpoints import Checkpoints
from cycleqd_jax.search.base import State
from experiments.benchmarks import frame


def rows(
    options: frame.Options,
    state: State,
    folder: pathlib.Path,
    *,
    megabytes: float,
    seconds: float,
) -> list[frame.Row]:
    """Measures a state.

    Args:
      options: of the suite.
      state: of a search with archives.
      folder: gets the checkpoints.
      megabytes: limit of the memory.
      seconds: limit of saving, and of restoring.
    """
    count = len(state.memory.archives.kept_ids())
    bank = state.bank
    held = jax.tree.leaves((bank.genomes, state.memory.archives))
    held = [*held, bank.scores, bank.parents, bank.weights, bank.active]
    with Checkpoints(folder) as checkpoints:
        took = frame.medians(
            frame.measure({"save": lambda: checkpoints.save(state)}, options.repeats)
            | frame.measure({"restore": checkpoints.restore}, options.repeats)
        )
    where = f"{count} elites of {state.bank.genomes[0].coefficients.size} coefficients"
    size = sum(a.nbytes for a in held) / 1e6
    return [
        frame.limit("archives: memory", size, megabytes, "MB", note=where),
        frame.limit("archives: save", took["save"], seconds, "s", note=where),
        frame.limit("archives: restore", took["restore"], seconds, "s", note=where),
    ]
