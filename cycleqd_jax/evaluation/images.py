"""The evaluator of segmentation models: many individuals, many images, one call.

In factored mode the individuals of a call share the base weights and the directions of
the basis: `jax.vmap` runs over their coefficients alone. All other individuals run one
after another with weights of their own. Every call has the same shape, so no score
depends on which images or individuals share a call.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from cycleqd_jax.errors import RunError
from cycleqd_jax.evaluation.base import (
    Cost,
    Episode,
    Evaluation,
    ProblemIds,
    Progress,
    select_problems,
)
from cycleqd_jax.evaluation.image_settings import ImagesSettings
from cycleqd_jax.evaluation.mask_programs import plain_masks, population_masks
from cycleqd_jax.evaluation.whole import WeightsSource
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.genome import Genome, stack_genomes
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.merging.noise import NoiseSource
from cycleqd_jax.models.base import Weights
from cycleqd_jax.models.masks import to_original
from cycleqd_jax.models.segmentation import Prompts, SegmentationModel
from cycleqd_jax.tasks.base import Problem, Split
from cycleqd_jax.tasks.segmentation import mask_text
from cycleqd_jax.tasks.segmentation.images import fit_image, fitted_size
from cycleqd_jax.tasks.segmentation.prompts import Prompt, make_prompt
from cycleqd_jax.tasks.segmentation.task import ImageTask

SCORED = "scored"  # the outcome of every episode
_KEPT_BYTES = 1 << 30  # of images that are kept between calls

Call = Callable[[jax.Array, Prompts], jax.Array]


def probabilities(
    logits: np.ndarray, original: tuple[int, int], image_size: int
) -> np.ndarray:
    """The prediction that is scored: probabilities at the size of the image.

    Logits are resized as `SamProcessor.post_process_masks` does, then go through a
    sigmoid; a pixel is foreground above .5.

    Args:
      logits: `[..., side, side]` of a single mask per image.
      original: height and width of the image, in pixels.
      image_size: side of the model's square input, in pixels.

    Returns:
      float32 `[..., height, width]`.
    """
    return expit(to_original(np.asarray(logits), original, image_size))


class _Fitted(NamedTuple):
    """An image as the model sees it.

    Attributes:
      pixels: float32 `[3, image_size, image_size]`.
      prompt: in pixels of that square.
      mask: the truth, bool `[h, w]` of the image itself.
    """

    pixels: np.ndarray
    prompt: Prompt
    mask: np.ndarray


class _Batch(NamedTuple):
    """Images of one call, with the same kind of prompt; padded to the call's size."""

    cases: list[tuple[ImageTask, Problem]]
    fitted: list[_Fitted]
    pixels: np.ndarray
    prompts: Prompts


class ImagesEvaluator:
    """Scores masks on this machine; of `Evaluator` it has `evaluate` alone.

    Use it as a context manager.

    Attributes:
      tasks: in the order of the archives.
    """

    def __init__(
        self,
        program: SegmentationModel,
        weights: Weights,
        basis: Basis | None,
        *,
        tasks: Sequence[ImageTask],
        mode: str,
        individuals_per_call: int,
        settings: ImagesSettings,
        noise: NoiseSource | None = None,
        whole: WeightsSource | None = None,
    ):
        """Creates an evaluator; nothing is compiled yet.

        Args:
          program: the model as pure functions.
          weights: of the base model, on the device.
          basis: that genomes refer to; None if no individual is a genome.
          tasks: in the order of the archives.
          mode: "factored" or "materialised", how genomes are evaluated.
          individuals_per_call: genomes of one call in factored mode.
          settings: the number of images in a call.
          noise: source of the genomes' Gaussian noise, if they have any.
          whole: gives the weights of individuals that are no genomes.
        """
        self.tasks = tuple(tasks)
        self._program, self._weights, self._basis = program, weights, basis
        self._factored = mode == "factored"
        self._individuals, self._rows = individuals_per_call, settings.per_call
        self._noise, self._whole = noise, whole
        self._kept: dict[str, _Fitted] = {}
        self._kept_bytes = 0
        # Weights of the last materialised genome; the next one reuses their memory.
        self._reusable: Weights | None = None

    def __enter__(self) -> "ImagesEvaluator":
        return self

    def __exit__(self, *error) -> None:
        self._kept, self._reusable, self._kept_bytes = {}, None, 0

    def evaluate(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        *,
        problems: ProblemIds | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Scores one mask per individual and image; see `Evaluator.evaluate`.

        The cost counts images in place of tokens. On `test` an episode's answer is the
        mask, see `tasks.segmentation.mask_text`; elsewhere it is empty.

        Raises:
          BadInputError: a task or a problem id is unknown, or an image cannot be read.
          RunError: a mask is not finite.
        """
        start = time.perf_counter()
        chosen = select_problems(self.tasks, split, problems)
        total, found = len(individuals) * len(chosen), {}
        for names in self._groups(individuals):
            call = self._call([individuals[name] for name in names])
            began = time.perf_counter()
            for batch, logits in self._masks(call, chosen):
                shares = len(names) * len(batch.cases)
                seconds = (time.perf_counter() - began) / shares
                for name, masks in zip(names, logits, strict=False):
                    for case in zip(batch.cases, batch.fitted, masks, strict=False):
                        episode = self._episode(name, split, *case, seconds)
                        found[name, episode.problem] = episode
                        if progress is not None:
                            progress(len(found), total)
                began = time.perf_counter()
        episodes = [found[name, p.id] for name in individuals for _, p in chosen]
        return Evaluation(episodes, Cost(total, 0, time.perf_counter() - start))

    def _groups(self, individuals: Mapping[str, Individual]) -> Iterator[list[str]]:
        """Names in order: genomes that share calls together, all others alone."""
        sharing: list[str] = []
        for name, individual in individuals.items():
            shares = self._factored and isinstance(individual, Genome)
            if sharing and (not shares or len(sharing) == self._individuals):
                yield sharing
                sharing = []
            if shares:
                sharing.append(name)
            else:
                yield [name]
        if sharing:
            yield sharing

    def _call(self, individuals: Sequence[Individual]) -> Call:
        """Masks of the individuals of a group, logits `[I, N, side, side]`."""
        first = individuals[0]
        if self._factored and isinstance(first, Genome):
            self._reusable = None
            filled = [*individuals, *[first] * (self._individuals - len(individuals))]
            genomes = jax.tree.map(jnp.asarray, stack_genomes(filled))
            basis = self._basis
            shared = (self._weights, basis.u, basis.v, basis.deltas)
            own = (genomes.coefficients, genomes.scales)
            return functools.partial(
                population_masks, self._program, basis.layout, shared, own
            )
        weights = self._load(first)
        return lambda pixels, prompts: plain_masks(
            self._program, weights, pixels, prompts
        )[None]

    def _load(self, individual: Individual) -> Weights:
        old, self._reusable = self._reusable, None
        if not isinstance(individual, Genome):
            del old  # two individuals' weights need not fit at once
            return self._whole.weights(individual)
        weights = materialise(
            self._weights, self._basis, individual, self._noise, into=old
        )
        if self._noise is None:  # with noise, all weights are new arrays anyway
            self._reusable = weights
        return weights

    def _masks(
        self, call: Call, chosen: Sequence[tuple[ImageTask, Problem]]
    ) -> Iterator[tuple[_Batch, np.ndarray]]:
        """Batches with their logits; the device computes one while one is scored."""
        before = None
        for cases in self._cases(chosen):
            batch = self._batch(cases)
            logits = call(batch.pixels, batch.prompts)
            if before is not None:
                yield before[0], np.asarray(before[1])
            before = batch, logits
        if before is not None:
            yield before[0], np.asarray(before[1])

    def _cases(
        self, chosen: Sequence[tuple[ImageTask, Problem]]
    ) -> Iterator[list[tuple[ImageTask, Problem]]]:
        """The images of each call; those of one call have one kind of prompt."""
        for kind in dict.fromkeys(task.prompt for task, _ in chosen):
            own = [case for case in chosen if case[0].prompt == kind]
            for first in range(0, len(own), self._rows):
                yield own[first : first + self._rows]

    def _batch(self, cases: list[tuple[ImageTask, Problem]]) -> _Batch:
        fitted = [self._fit(task, problem) for task, problem in cases]
        rows = [*fitted, *[fitted[0]] * (self._rows - len(fitted))]
        kind, prompts = cases[0][0].prompt, Prompts()
        if kind == "box":
            prompts = Prompts(boxes=np.stack([row.prompt.boxes for row in rows]))
        elif kind == "point":
            prompts = Prompts(
                points=np.stack([row.prompt.points[None] for row in rows]),
                labels=np.stack([row.prompt.labels[None] for row in rows]),
            )
        return _Batch(cases, fitted, np.stack([row.pixels for row in rows]), prompts)

    def _fit(self, task: ImageTask, problem: Problem) -> _Fitted:
        """One image; kept for later calls while there is room."""
        if problem.id in self._kept:
            return self._kept[problem.id]
        example, size = task.example(problem), self._program.config.image_size
        shape = example.mask.shape
        prompt = make_prompt(example.mask, task.prompt)
        fitted = _Fitted(
            fit_image(example.image, size),
            prompt.scaled(shape, fitted_size(shape, size)),
            example.mask,
        )
        if self._kept_bytes < _KEPT_BYTES:
            self._kept[problem.id] = fitted
            self._kept_bytes += fitted.pixels.nbytes + fitted.mask.nbytes
        return fitted

    def _episode(
        self,
        name: str,
        split: Split,
        case: tuple[ImageTask, Problem],
        fitted: _Fitted,
        logits: np.ndarray,
        seconds: float,
    ) -> Episode:
        task, problem = case
        if not np.isfinite(logits).all():
            raise RunError(f"{name} on {problem.id}: its mask has no finite values.")
        size, shape = self._program.config.image_size, fitted.mask.shape
        prediction = probabilities(logits, shape, size)
        score = task.score(prediction, fitted.mask)
        kept = mask_text.to_text(prediction > 0.5) if split == Split.TEST else ""
        return Episode(
            individual=name,
            split=str(split),
            task=task.name,
            problem=problem.id,
            outcome=SCORED,
            score=score,
            answer=kept,
            reply="",
            explanation=f"{task.measure} {score:.3f}",
            turns=1,
            prompt_tokens=0,
            tokens=(),
            finish="",
            replies=(),
            metrics={},
            seconds=seconds,
        )
