"""Batches of images, as a function of the seed and the number of the update."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.models.base import Weights
from cycleqd_jax.models.segmentation import SegmentationModel
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.tasks.segmentation.arrays import Fitted, fit_examples
from cycleqd_jax.tasks.segmentation.base import DataSet
from cycleqd_jax.training.batches import Order
from cycleqd_jax.training.images.loss import ImageBatch, image_loss
from cycleqd_jax.training.step import Method, Params

_MOST_KEPT = 1 << 31  # bytes of one split that stay in memory
_AT_ONCE = 16  # images that are checked together


class Images:
    """One split of a data set, fitted into the model's square.

    Small ones are drawn or read once. Others are read for every batch.

    Attributes:
      name: of the data set.
      ids: of the images.
    """

    def __init__(self, data: DataSet, split: Split, size: int):
        """Reads nothing yet.

        Args:
          data: the data set.
          split: whose images.
          size: of the model's square, in pixels.
        """
        self.name, self.ids = data.name, tuple(data.ids(split))
        self._data, self._size = data, size
        self._kept: Fitted | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def check(self) -> None:
        """Reads every image once.

        Raises:
          BadInputError: a file is missing or damaged.
        """
        for start in range(0, len(self), _AT_ONCE):
            self.take(range(start, min(start + _AT_ONCE, len(self))))

    def take(self, places: Sequence[int]) -> Fitted:
        """The images at some places, with labels of the size of the input.

        Raises:
          BadInputError: a file cannot be read.
        """
        one = self._size**2 * (3 * 4 + 1)  # bytes
        if len(self) * one > _MOST_KEPT:
            return self._fit([self.ids[place] for place in places])
        if self._kept is None:
            self._kept = self._fit(self.ids)
        kept = [None if x is None else x[list(places)] for x in self._kept]
        return Fitted(*kept)

    def _fit(self, ids: Sequence[str]) -> Fitted:
        return fit_examples(self._data, ids, self._size, self._size)


class ImageBatches:
    """The batches of all updates."""

    def __init__(
        self,
        sources: Sequence[Images],
        weights: Sequence[float],
        *,
        batch_size: int,
        seed: int,
    ):
        """Plans them.

        Args:
          sources: images of each source, at least one, with one kind of prompt.
          weights: of the sources; see `batches.Order`.
          batch_size: images per update.
          seed: of the order.
        """
        self._sources, self._size = sources, batch_size
        self._order = Order([len(s) for s in sources], weights, seed)

    def at(self, step: int) -> ImageBatch:
        """The batch of an update; the first is 1."""
        picks = self._order.picks((step - 1) * self._size, self._size)
        parts = []
        for number, source in enumerate(self._sources):
            chosen = [pick.example for pick in picks if pick.source == number]
            if chosen:
                parts.append(source.take(chosen))
        return _batch(_joined(parts), self._size)


class ImageCurve:
    """Held-out images of some data sets, in batches of one size; a `sft.Curve`.

    Attributes:
      tasks: names of the data sets, in order.
      images: number of all images.
    """

    def __init__(self, held_out: Mapping[str, Images], rows: int):
        """Reads nothing yet.

        Args:
          held_out: by name of the data set.
          rows: images per batch.
        """
        self.tasks = tuple(held_out)
        self.images = sum(len(found) for found in held_out.values())
        self._held_out, self._rows = held_out, rows

    def losses(
        self,
        params: Params,
        weights: Weights,
        *,
        program: SegmentationModel,
        method: Method,
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Mean loss and mean Jaccard index, by data set; see `sft.Curve`."""
        values: dict[str, float] = {}
        shares: dict[str, float] = {}
        for task, images in self._held_out.items():
            sums = [
                _sums(params, weights, batch, program=program, method=method)
                for batch in self._batches(images)
            ]
            values[task] = sum(float(s) for s, _ in sums) / len(images)
            shares[task] = sum(float(s) for _, s in sums) / len(images)
        return values, shares

    def _batches(self, images: Images) -> Iterator[ImageBatch]:
        """The last may have padding."""
        for start in range(0, len(images), self._rows):
            places = range(start, min(start + self._rows, len(images)))
            yield _batch(images.take(places), self._rows)


def _joined(parts: Sequence[Fitted]) -> Fitted:
    if len(parts) == 1:
        return parts[0]
    columns = zip(*parts, strict=True)
    return Fitted(*(None if c[0] is None else np.concatenate(c) for c in columns))


def _batch(found: Fitted, rows: int) -> ImageBatch:
    """A batch of `rows` rows; missing ones repeat the last image and do not count."""
    count = len(found.pixels)
    places = np.minimum(np.arange(rows), count - 1)
    arrays = (None if x is None else x[places] for x in found)
    pixels, labels, points, point_labels, boxes = arrays
    mask = (np.arange(rows) < count).astype(np.float32)
    return ImageBatch(pixels, labels, mask, points, point_labels, boxes)


@partial(jax.jit, static_argnames=("program", "method"))
def _sums(
    params: Params,
    weights: Weights,
    batch: ImageBatch,
    *,
    program: SegmentationModel,
    method: Method,
) -> tuple[jax.Array, jax.Array]:
    """Summed loss and Jaccard index of a batch."""
    one = jnp.float32(1)
    return image_loss(params, weights, batch, one, program=program, method=method)
