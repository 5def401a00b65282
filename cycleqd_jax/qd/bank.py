"""The bank: genome, scores and ancestry of every individual, by id.

Experts have the ids 0 to E - 1; the child of generation t has the id E - 1 + t. Genomes
are in host memory. Archives hold only ids, so a child that three archives keep is
stored once. The genome of an individual that no archive keeps may be dropped; its
scores and ancestry stay. A bank does not change: each addition returns a new bank that
shares the genomes of the old one.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np

from cycleqd_jax.merging.genome import Genome, resize_noise, stack_genomes
from cycleqd_jax.merging.individuals import Recipe
from cycleqd_jax.merging.noise import noise_length
from cycleqd_jax.qd.cells import check_retention, check_scores, check_smooth

_NO_PARENT = -1


@dataclasses.dataclass(frozen=True)
class Bank:
    """All individuals of a run.

    Letters: N individuals, K tasks, E experts (mostly one per task), G coefficients of
    a genome.

    Attributes:
      genomes: id -> genome of float32 NumPy arrays, `[G]` and `[E]`. Either all of them
        have noise or none has. Ids whose genomes were dropped are missing. A child may
        be a recipe instead.
      scores: float64 `[N, K]`, in [0, 1].
      parents: ids, int32 `[N, 2]`; -1 where there are none.
      weights: raw crossover weights of the parents, float32 `[N, 2]`; 0 where there are
        none.
      active: the task from whose archive the parents were drawn, 0-based, int32 `[N]`;
        -1 for experts and searches without archives.
      complete: bool `[N]`, whether the scores are means over all problems.
      num_experts: E, whether they are in the bank already or not.
      smooth: smooth scores, float64 `[N, K]`: mean log-probability per token of right
        answers, in nats; NaN where there is none.
      retention: share of the base's probability of plain text that is kept, in [0, 1],
        float64 `[N]`; NaN where it was not measured.
    """

    genomes: Mapping[int, Genome]
    scores: np.ndarray
    parents: np.ndarray
    weights: np.ndarray
    active: np.ndarray
    complete: np.ndarray
    num_experts: int
    smooth: np.ndarray
    retention: np.ndarray

    @classmethod
    def empty(cls, num_tasks: int, num_experts: int | None = None) -> "Bank":
        """A bank without individuals, for K tasks and E experts; E is K by default."""
        return cls(
            genomes={},
            scores=np.zeros((0, num_tasks), np.float64),
            parents=np.zeros((0, 2), np.int32),
            weights=np.zeros((0, 2), np.float32),
            active=np.zeros(0, np.int32),
            complete=np.zeros(0, bool),
            num_experts=num_tasks if num_experts is None else num_experts,
            smooth=np.zeros((0, num_tasks), np.float64),
            retention=np.zeros(0, np.float64),
        )

    @property
    def num_tasks(self) -> int:
        """K."""
        return self.scores.shape[1]

    @property
    def next_id(self) -> int:
        """The id of the next individual, which is N."""
        return self.scores.shape[0]

    def add_expert(
        self,
        genome: Genome,
        scores: Sequence[float],
        smooth: Sequence[float] | None = None,
        retention: float | None = None,
    ) -> "Bank":
        """A bank with one more expert. All E experts must come before any child.

        Raises:
          ValueError: the scores are not K numbers in [0, 1], the retention is not one,
            or the bank has E experts already.
        """
        if self.next_id >= self.num_experts:
            each = ", one per task" if self.num_experts == self.num_tasks else ""
            raise ValueError(
                f"expert: expected at most {self.num_experts}{each}, but there are "
                f"{self.next_id} individuals already."
            )
        return self._add(genome, scores, smooth=smooth, retention=retention)

    def add_child(
        self,
        genome: Genome | Recipe,
        scores: Sequence[float],
        *,
        parents: Sequence[int] = (),
        weights: Sequence[float] = (),
        active: int = -1,
        complete: bool = True,
        smooth: Sequence[float] | None = None,
        retention: float | None = None,
    ) -> "Bank":
        """A bank with one more child, that of the next generation.

        Args:
          genome: one genome, `[G]` and `[E]`, or a recipe.
          scores: K scores in [0, 1].
          parents: two ids of this bank, or none.
          weights: the parents' raw crossover weights.
          active: the task from whose archive they were drawn, 0-based; -1 for none.
          complete: whether the scores are means over all problems.
          smooth: K smooth scores, NaN for a task without any; None for none.
          retention: in [0, 1]; None if it was not measured.

        Raises:
          ValueError: the scores are not K numbers in [0, 1], the retention is not one,
            a parent's id is unknown, or the bank has fewer than E experts.
        """
        if self.next_id < self.num_experts:
            raise ValueError(
                f"child: expected {self.num_experts} experts in the bank first, but "
                f"there are {self.next_id}."
            )
        known = all(0 <= int(p) < self.next_id for p in parents)
        if len(parents) not in (0, 2) or not known:
            raise ValueError(
                f"parents: expected none or two ids below {self.next_id}, got "
                f"{list(parents)}."
            )
        return self._add(
            genome, scores, parents, weights, active, complete, smooth, retention
        )

    def _add(
        self,
        genome,
        scores,
        parents=(),
        weights=(),
        active=-1,
        complete=True,
        smooth=None,
        retention=None,
    ) -> "Bank":
        if not len(parents):
            parents, weights = (_NO_PARENT, _NO_PARENT), (0.0, 0.0)
        kept = genome
        if not isinstance(genome, Recipe):
            kept = jax.tree.map(lambda leaf: np.array(leaf, np.float32), genome)
        row = check_scores(scores, self.num_tasks)
        likely = check_smooth(smooth, self.num_tasks)
        share = math.nan if retention is None else check_retention(retention)
        return Bank(
            genomes={**self.genomes, self.next_id: kept},
            scores=np.vstack([self.scores, np.asarray([row], np.float64)]),
            parents=np.vstack([self.parents, np.asarray([parents], np.int32)]),
            weights=np.vstack([self.weights, np.asarray([weights], np.float32)]),
            active=np.append(self.active, np.int32(active)),
            complete=np.append(self.complete, bool(complete)),
            num_experts=self.num_experts,
            smooth=np.vstack([self.smooth, np.asarray([likely], np.float64)]),
            retention=np.append(self.retention, share),
        )

    def individual(self, individual: int) -> Genome | Recipe:
        """The genome of one id, or its recipe.

        Raises:
          KeyError: the id is unknown, or its genome was dropped.
        """
        if individual not in self.genomes:
            raise KeyError(
                f"individual: expected an id whose genome is in the bank, got "
                f"{individual}; it was dropped or never added."
            )
        return self.genomes[individual]

    def genome(self, individual: int) -> Genome:
        """The genome of one id.

        Raises:
          KeyError: the id is unknown, its genome was dropped, or it is a recipe.
        """
        found = self.individual(individual)
        if isinstance(found, Recipe):
            raise KeyError(
                f"individual: expected an id with a genome, got {individual}; it is a "
                "recipe."
            )
        return found

    def gather(
        self, individuals: Sequence[int], *, noise_length: int | None = None
    ) -> Genome:
        """The genomes of P ids as one batch, `[P, G]` and `[P, E]`.

        Args:
          individuals: P ids; an id may be there several times.
          noise_length: if given, every genome gets noise of this length: its own,
            padded with zeros, or zeros where it has none.

        Raises:
          KeyError: an id is unknown, or its genome was dropped.
        """
        genomes = [self.genome(int(i)) for i in individuals]
        if noise_length is not None:
            genomes = [_with_noise(genome, noise_length) for genome in genomes]
        return stack_genomes(genomes)

    def prune(self, keep_ids: Iterable[int]) -> "Bank":
        """A bank that has only the genomes of experts and of `keep_ids`."""
        keep = {int(i) for i in keep_ids} | set(range(self.num_experts))
        kept = {i: genome for i, genome in self.genomes.items() if i in keep}
        return dataclasses.replace(self, genomes=kept)

    def to_numpy(self) -> dict[str, np.ndarray]:
        """All data as named arrays; row i of the genomes belongs to `genome_ids[i]`."""
        recipes = {i: one for i, one in self.genomes.items() if isinstance(one, Recipe)}
        ids = sorted(self.genomes.keys() - recipes.keys())
        noisy = any(self.genomes[i].noise is not None for i in ids)
        # In memory, lengths of noise depend on when the run was last resumed. In a file
        # they depend on the number of children only.
        length = noise_length(self.next_id - self.num_experts) if noisy else None
        batch = self.gather(ids, noise_length=length) if ids else None
        no_genomes = np.zeros((0, 0), np.float32)
        no_scales = np.zeros((0, self.num_experts), np.float32)
        some = {} if batch is None or batch.noise is None else {"noise": batch.noise}
        if recipes:
            some["recipes"] = _to_bytes(recipes)
        if np.isfinite(self.smooth).any():
            some["smooth"] = self.smooth
        if np.isfinite(self.retention).any():
            some["retention"] = self.retention
        return some | {
            "genome_ids": np.asarray(ids, np.int32),
            "coefficients": no_genomes if batch is None else batch.coefficients,
            "scales": no_scales if batch is None else batch.scales,
            "scores": self.scores,
            "parents": self.parents,
            "weights": self.weights,
            "active": self.active,
            "complete": self.complete,
        }

    @classmethod
    def from_numpy(cls, arrays: Mapping[str, np.ndarray]) -> "Bank":
        """The bank whose `to_numpy` gave these arrays."""
        coefficients = np.asarray(arrays["coefficients"], np.float32)
        scales = np.asarray(arrays["scales"], np.float32)
        noise = arrays.get("noise")
        genomes = {
            int(individual): Genome(
                coefficients[row],
                scales[row],
                None if noise is None else np.asarray(noise[row], np.float32),
            )
            for row, individual in enumerate(np.asarray(arrays["genome_ids"]))
        }
        recipes = arrays.get("recipes")
        scores = np.asarray(arrays["scores"], np.float64)
        return cls(
            genomes=genomes | ({} if recipes is None else _from_bytes(recipes)),
            scores=scores,
            parents=np.asarray(arrays["parents"], np.int32),
            weights=np.asarray(arrays["weights"], np.float32),
            active=np.asarray(arrays["active"], np.int32),
            complete=np.asarray(arrays["complete"], bool),
            num_experts=scales.shape[1],
            smooth=np.asarray(
                arrays.get("smooth", np.full(scores.shape, np.nan)), np.float64
            ),
            retention=np.asarray(
                arrays.get("retention", np.full(len(scores), np.nan)), np.float64
            ),
        )


def _to_bytes(recipes: Mapping[int, Recipe]) -> np.ndarray:
    """Recipes by id as JSON, uint8; numbers keep all their digits."""
    plain = {str(i): dataclasses.asdict(recipes[i]) for i in sorted(recipes)}
    return np.frombuffer(json.dumps(plain).encode(), np.uint8)


def _from_bytes(array: np.ndarray) -> dict[int, Recipe]:
    plain = json.loads(np.asarray(array, np.uint8).tobytes())
    return {int(i): Recipe(**fields) for i, fields in plain.items()}


def _with_noise(genome: Genome, length: int) -> Genome:
    """The genome with its noise padded to a length; zeros where it has none."""
    noise = np.zeros(0, np.float32) if genome.noise is None else genome.noise
    return genome.replace(noise=resize_noise(noise, length))
