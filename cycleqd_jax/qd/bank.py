"""The bank: every individual's genome, scores and ancestry, under its id.

Ids are rows: experts 0 to K - 1 first, then the child of generation t at K - 1 + t.
Genomes lie on the host; archives name ids only, so a child kept by three archives is
stored once. A genome that no archive names any more may be dropped; scores and
ancestry of every individual stay. A bank is never edited: every change is a new one
that shares the unchanged genomes.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from cycleqd_jax.merging.genome import Genome, resize_noise, stack_genomes
from cycleqd_jax.merging.noise import noise_length
from cycleqd_jax.qd.cells import check_scores

NO_PARENT = -1


class Ancestor(NamedTuple):
    """One individual of a lineage.

    Attributes:
      individual: its id.
      parents: two ids, or () for an expert.
      weights: the raw crossover weights of the parents, or ().
      active: the task whose archive it was bred from, -1 for an expert.
    """

    individual: int
    parents: tuple[int, ...]
    weights: tuple[float, ...]
    active: int


@dataclasses.dataclass(frozen=True)
class Bank:
    """All individuals of a run; N of them, K tasks, G coefficients.

    Attributes:
      genomes: id -> genome of `[G]` and `[K]` float32 NumPy arrays, all with noise or
        none; some ids may have been dropped.
      scores: float64 `[N, K]`, in [0, 1].
      parents: int32 `[N, 2]`, -1 where there are none.
      weights: float32 `[N, 2]`, raw crossover weights, 0 without parents.
      active: int32 `[N]`, the task whose archive the individual was bred from, -1
        for experts and searches without archives.
      complete: bool `[N]`, whether the scores rest on all problems.
    """

    genomes: Mapping[int, Genome]
    scores: np.ndarray
    parents: np.ndarray
    weights: np.ndarray
    active: np.ndarray
    complete: np.ndarray

    @classmethod
    def empty(cls, num_tasks: int) -> "Bank":
        """A bank without individuals, for K tasks."""
        return cls(
            genomes={},
            scores=np.zeros((0, num_tasks), np.float64),
            parents=np.zeros((0, 2), np.int32),
            weights=np.zeros((0, 2), np.float32),
            active=np.zeros(0, np.int32),
            complete=np.zeros(0, bool),
        )

    @property
    def num_tasks(self) -> int:
        """K."""
        return self.scores.shape[1]

    @property
    def next_id(self) -> int:
        """The id the next individual gets, which is also N."""
        return self.scores.shape[0]

    def add_expert(self, genome: Genome, scores: Sequence[float]) -> "Bank":
        """This bank and one more expert; all K experts come before any child.

        Raises:
          ValueError: the scores are not K numbers in [0, 1], or K experts are there.
        """
        if self.next_id >= self.num_tasks:
            raise ValueError(
                f"expert: expected at most {self.num_tasks}, one per task, but there "
                f"are {self.next_id} individuals already."
            )
        return self._add(genome, scores)

    def add_child(
        self,
        genome: Genome,
        scores: Sequence[float],
        *,
        parents: Sequence[int] = (),
        weights: Sequence[float] = (),
        active: int = -1,
        complete: bool = True,
    ) -> "Bank":
        """This bank and the child of the next generation.

        Args:
          genome: one genome, `[G]` and `[K]`.
          scores: K scores in [0, 1].
          parents: two ids already in the bank, or none.
          weights: the parents' raw crossover weights.
          active: the task whose archive they were drawn from, 0-based; -1 for none.
          complete: whether the scores rest on all problems.

        Raises:
          ValueError: the scores are not K numbers in [0, 1], a parent is not in the
            bank, or experts are missing.
        """
        if self.next_id < self.num_tasks:
            raise ValueError(
                f"child: expected {self.num_tasks} experts in the bank first, but "
                f"there are {self.next_id}."
            )
        known = all(0 <= int(p) < self.next_id for p in parents)
        if len(parents) not in (0, 2) or not known:
            raise ValueError(
                f"parents: expected none or two ids below {self.next_id}, got "
                f"{list(parents)}."
            )
        return self._add(genome, scores, parents, weights, active, complete)

    def _add(
        self, genome, scores, parents=(), weights=(), active=-1, complete=True
    ) -> "Bank":
        if not len(parents):
            parents, weights = (NO_PARENT, NO_PARENT), (0.0, 0.0)
        kept = jax.tree.map(lambda leaf: np.array(leaf, np.float32), genome)
        row = check_scores(scores, self.num_tasks)
        return Bank(
            genomes={**self.genomes, self.next_id: kept},
            scores=np.vstack([self.scores, np.asarray([row], np.float64)]),
            parents=np.vstack([self.parents, np.asarray([parents], np.int32)]),
            weights=np.vstack([self.weights, np.asarray([weights], np.float32)]),
            active=np.append(self.active, np.int32(active)),
            complete=np.append(self.complete, bool(complete)),
        )

    def genome(self, individual: int) -> Genome:
        """The genome of one id.

        Raises:
          KeyError: the id is unknown, or its genome was dropped.
        """
        if individual not in self.genomes:
            raise KeyError(
                f"individual: expected an id whose genome is in the bank, got "
                f"{individual}; it was dropped or never added."
            )
        return self.genomes[individual]

    def gather(
        self, individuals: Sequence[int], *, noise_length: int | None = None
    ) -> Genome:
        """The genomes of several ids as one batch, `[P, G]` and `[P, K]`.

        Args:
          individuals: P ids.
          noise_length: fill noise up to it, `[P, N]`, also where genomes have none.
        """
        genomes = [self.genome(int(i)) for i in individuals]
        if noise_length is not None:
            genomes = [_with_noise(genome, noise_length) for genome in genomes]
        return stack_genomes(genomes)

    def prune(self, keep_ids: Iterable[int]) -> "Bank":
        """Without the genomes of all children but `keep_ids`; experts always stay."""
        keep = {int(i) for i in keep_ids} | set(range(self.num_tasks))
        kept = {i: genome for i, genome in self.genomes.items() if i in keep}
        return dataclasses.replace(self, genomes=kept)

    def lineage(self, individual: int) -> list[Ancestor]:
        """An individual and all its ancestors, each once, the highest id first.

        Raises:
          KeyError: the id is unknown.
        """
        if not 0 <= individual < self.next_id:
            raise KeyError(
                f"individual: expected an id below {self.next_id}, got {individual}."
            )
        found: dict[int, Ancestor] = {}
        todo = [int(individual)]
        while todo:
            one = todo.pop()
            if one in found:
                continue
            born = self.parents[one, 0] != NO_PARENT
            parents = tuple(self.parents[one].tolist()) if born else ()
            weights = tuple(self.weights[one].tolist()) if born else ()
            found[one] = Ancestor(one, parents, weights, int(self.active[one]))
            todo.extend(parents)
        return [found[i] for i in sorted(found, reverse=True)]

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Everything as named arrays; genomes are rows in order of `genome_ids`."""
        ids = sorted(self.genomes)
        noisy = any(genome.noise is not None for genome in self.genomes.values())
        # The same length however the bank came about: grown, or read and gone on with.
        length = noise_length(self.next_id - self.num_tasks) if noisy else None
        batch = self.gather(ids, noise_length=length) if ids else None
        no_genomes = np.zeros((0, 0), np.float32)
        noise = {} if batch is None or batch.noise is None else {"noise": batch.noise}
        return noise | {
            "genome_ids": np.asarray(ids, np.int32),
            "coefficients": no_genomes if batch is None else batch.coefficients,
            "scales": no_genomes if batch is None else batch.scales,
            "scores": self.scores,
            "parents": self.parents,
            "weights": self.weights,
            "active": self.active,
            "complete": self.complete,
        }

    @classmethod
    def from_numpy(cls, arrays: Mapping[str, np.ndarray]) -> "Bank":
        """The bank that `to_numpy` wrote."""
        coefficients = np.asarray(arrays["coefficients"], np.float32)
        scales = np.asarray(arrays["scales"], np.float32)
        noise = arrays.get("noise")
        return cls(
            genomes={
                int(individual): Genome(
                    coefficients[row],
                    scales[row],
                    None if noise is None else np.asarray(noise[row], np.float32),
                )
                for row, individual in enumerate(np.asarray(arrays["genome_ids"]))
            },
            scores=np.asarray(arrays["scores"], np.float64),
            parents=np.asarray(arrays["parents"], np.int32),
            weights=np.asarray(arrays["weights"], np.float32),
            active=np.asarray(arrays["active"], np.int32),
            complete=np.asarray(arrays["complete"], bool),
        )


def _with_noise(genome: Genome, length: int) -> Genome:
    """The genome with noise of that length, zero where it has none."""
    noise = np.zeros(0, np.float32) if genome.noise is None else genome.noise
    return genome.replace(noise=resize_noise(noise, length))
