"""The archives: one MAP-Elites grid of individuals' ids per task.

In archive k, task k's score is the quality and the bins of all other tasks' scores are
the behaviour. An archive is a QDax `MapElitesRepertoire` whose genotype is an
individual's id (int32) and whose extra scores are all K scores, which selection needs.
Where individuals have smooth scores (log-probabilities of right answers), archive k
compares the pair of task k's score and smooth score: the score decides, and of equal
scores the smooth one. Retention (the share of the base's probability of plain text that
an individual keeps) may be one more behaviour. Properties of QDax that matter here:

- The descriptors it gets are bin indices (`cells.py`): on an integer grid its search
  for the nearest centroid is exact.
- If a batch has equally fit children for one cell, it is undefined which of them QDax
  keeps. Our scores are discrete, so this happens often; individuals are therefore
  offered one at a time, in order of t.
- `init` drops extra scores, so repertoires are made by `init_default`.
- Cells are not in the order of a reshape; their positions are read from the centroids.
- Qualities are float32, so two that differ by less than about 1e-7 are equal. Reports
  use the float64 scores of the bank (`elites.py`).

Source: Mouret and Clune, "Illuminating search spaces by mapping elites"
(arXiv 1504.04909); CycleQD (arXiv 2410.14735) for one archive per task.
"""

import enum
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from qdax.core.containers.mapelites_repertoire import (
    MapElitesRepertoire,
    compute_euclidean_centroids,
    get_cells_indices,
)

from cycleqd_jax.qd.cells import (
    Range,
    behaviour_bins,
    check_retention,
    check_scores,
    check_smooth,
)

SCORES = "scores"  # key of the extra scores, float32 [C, K]
SMOOTH = "smooth"  # key of the smooth score on the archive's task, float32 [C]


class Status(enum.StrEnum):
    """The decision of an archive on an individual that was offered to it."""

    NEW = "new"  # put into an empty cell
    IMPROVED = "improved"  # replaced an elite of strictly lower quality or smooth score
    REJECTED = "rejected"


STATUSES = (Status.REJECTED, Status.NEW, Status.IMPROVED)


@flax.struct.dataclass
class Archives:
    """The archives of all K tasks; a pytree.

    Attributes:
      repertoires: one per task; with C = bins ** (K - 1) cells each: genotypes int32
        `[C]`, fitnesses float32 `[C, 1]` (-inf: empty), descriptors float32
        `[C, K - 1]` (bin indices), extra score "scores" float32 `[C, K]`, and with
        smooth scores "smooth" float32 `[C]` (-inf: unknown). With retention there are
        C = bins ** K cells, and retention is the last of K descriptors and of K + 1
        scores.
      ranges: K score ranges; static.
      bins: bins per behaviour; static.
      retention: range of retention; static; None if it is no behaviour.
    """

    repertoires: tuple[MapElitesRepertoire, ...]
    ranges: tuple[Range, ...] = flax.struct.field(pytree_node=False)
    bins: int = flax.struct.field(pytree_node=False)
    retention: Range | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.repertoires)

    def ids(self, task: int) -> np.ndarray:
        """Ids of one archive's elites, int32, in order of cells."""
        repertoire = self.repertoires[task]
        return np.asarray(repertoire.genotypes)[occupied(repertoire)]

    def kept_ids(self) -> set[int]:
        """Ids of all elites of all archives."""
        return {int(i) for task in range(self.num_tasks) for i in self.ids(task)}

    def cell_bins(self, task: int) -> np.ndarray:
        """The bins of every cell, int32 `[C, K - 1]` or `[C, K]`; row i is cell i."""
        return np.rint(self.repertoires[task].centroids).astype(np.int32)

    def offer(
        self,
        individual: int,
        scores: Sequence[float],
        smooth: Sequence[float] | None = None,
        retention: float | None = None,
    ) -> tuple["Archives", tuple[Status, ...]]:
        """Offers one evaluated individual to every archive.

        An archive accepts it if its cell there is empty or holds an elite of strictly
        lower quality, or of equal quality and strictly lower smooth score.

        Args:
          individual: its id.
          scores: K scores in [0, 1], one per task, as Python floats.
          smooth: K smooth scores, NaN where there is none; None for none. Archives
            without smooth scores do not look at them.
          retention: in [0, 1]; archives without retention do not look at it.

        Returns:
          The new archives, and the status of the individual in each.

        Raises:
          ValueError: the scores are not K numbers in [0, 1], the smooth scores not K
            numbers, or the retention, where it is a behaviour, no number in [0, 1].
        """
        scores = check_scores(scores, self.num_tasks)
        likely = check_smooth(smooth, self.num_tasks)
        ranges = self.ranges
        if self.retention is not None:
            scores = (*scores, check_retention(retention))
            ranges = (*ranges, self.retention)
        repertoires, statuses = [], []
        for task, repertoire in enumerate(self.repertoires):
            place = behaviour_bins(scores, ranges, self.bins, task)
            repertoire, status = offer(
                repertoire, individual, place, scores[task], scores, likely[task]
            )
            repertoires.append(repertoire)
            statuses.append(status)
        return self.replace(repertoires=tuple(repertoires)), tuple(statuses)


def empty_archives(
    ranges: Sequence[Range],
    bins: int,
    *,
    smooth: bool = False,
    retention: Range | None = None,
) -> Archives:
    """Archives without elites.

    Args:
      ranges: K score ranges, K >= 2.
      bins: bins per behaviour, >= 1. Each archive has bins ** (K - 1) cells, or bins **
        K with retention, so check that they fit into memory first.
      smooth: whether smooth scores decide between equal qualities.
      retention: range of retention; None if it is no behaviour.

    Raises:
      ValueError: there are fewer than two tasks or no bins.
    """
    num_tasks = len(ranges)
    if num_tasks < 2 or bins < 1:
        raise ValueError(
            f"archives: expected at least two tasks and one bin, got {num_tasks} tasks "
            f"and {bins} bins."
        )
    # One each: repertoires that share an array cannot be donated.
    count = num_tasks if retention is None else num_tasks + 1
    repertoires = tuple(
        empty_repertoire(bins, count - 1, count, smooth=smooth)
        for _ in range(num_tasks)
    )
    plain = tuple((float(low), float(high)) for low, high in ranges)
    return Archives(repertoires, plain, int(bins), retention)


def empty_repertoire(
    bins: int, num_descriptors: int, num_scores: int, *, smooth: bool
) -> MapElitesRepertoire:
    """A grid of `bins ** num_descriptors` empty cells for ids with their scores.

    With `smooth` it also keeps smooth scores, which decide between equal qualities.
    """
    grid = (bins,) * num_descriptors
    extra = {SCORES: jnp.zeros(num_scores, jnp.float32)}
    if smooth:
        extra[SMOOTH] = jnp.zeros((), jnp.float32)
    return MapElitesRepertoire.init_default(
        genotype=jnp.zeros((), jnp.int32),
        centroids=compute_euclidean_centroids(grid, minval=-0.5, maxval=bins - 0.5),
        one_extra_score=extra,
        keys_extra_scores=tuple(extra),
    )


def offer(
    repertoire: MapElitesRepertoire,
    individual: int,
    place: Sequence[int],
    quality: float,
    scores: Sequence[float],
    smooth: float,
) -> tuple[MapElitesRepertoire, Status]:
    """Offers one individual to one archive.

    Args:
      repertoire: the archive.
      individual: its id.
      place: the bins of its cell.
      quality: is compared with that of the cell's elite.
      scores: all that the archive keeps of it, in the order of `SCORES`.
      smooth: decides between equal qualities, in archives with smooth scores; NaN where
        there is none.

    Returns:
      The archive, which has the individual if its cell was empty or had a worse elite;
      and the status.
    """
    repertoire, status = _offer(
        repertoire,
        np.int32(individual),
        np.asarray(place, np.float32),
        np.float32(quality),
        np.asarray(scores, np.float32),
        np.float32(-np.inf if np.isnan(smooth) else smooth),
    )
    return repertoire, STATUSES[int(status)]


def occupied(repertoire: MapElitesRepertoire) -> np.ndarray:
    """The mask of cells that hold an elite, bool `[C]`, on the host."""
    return np.asarray(repertoire.fitnesses)[:, 0] > -np.inf


@jax.jit
def _offer(
    repertoire: MapElitesRepertoire,
    individual: jax.Array,
    place: jax.Array,
    quality: jax.Array,
    scores: jax.Array,
    smooth: jax.Array,
) -> tuple[MapElitesRepertoire, jax.Array]:
    """Adds one individual; the second result is its status, as index of `STATUSES`."""
    cell = get_cells_indices(place[None], repertoire.centroids)[0]
    before = repertoire.fitnesses[cell, 0]
    better, extra = quality > before, {SCORES: scores[None]}
    if SMOOTH in repertoire.extra_scores:
        wins_tie = smooth > repertoire.extra_scores[SMOOTH][cell]
        better |= (quality == before) & wins_tie
        extra[SMOOTH] = smooth[None]
        # QDax looks at fitnesses alone: who loses a tie leaves its cell first.
        left = jnp.where(better, -jnp.inf, before)
        fitnesses = repertoire.fitnesses.at[cell, 0].set(left)
        repertoire = repertoire.replace(fitnesses=fitnesses)
    added = repertoire.add(individual[None], place[None], quality[None], extra)
    improved = jnp.where(better, 2, 0)
    return added, jnp.where(before == -jnp.inf, 1, improved)
