"""The generated data sets: any number of images by seed, in disjoint splits.

The random numbers of an image come from (seed, family, split, place), so no image is in
two splits, and a longer split begins with the shorter one.
"""

import hashlib
import json
from typing import Annotated

import numpy as np
from pydantic import Field

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import Fraction, Section, parse_section
from cycleqd_jax.tasks.base import Split, TaskSettings
from cycleqd_jax.tasks.segmentation.base import Example
from cycleqd_jax.tasks.segmentation.families import FAMILIES
from cycleqd_jax.tasks.segmentation.prompts import PromptKind
from cycleqd_jax.tasks.segmentation.shapes import SHAPES

KINDS = FAMILIES | {"shapes": SHAPES}  # the last is for base models, not for experts
_VERSION = 1  # of the drawings; a change of theirs changes the fingerprint
_CODES = {Split.TRAIN: 1, Split.OPTIMISE: 2, Split.VALIDATE: 3, Split.TEST: 4}
_GRAIN = 0.015  # deviation of the camera's noise


class PocketOptions(Section):
    """Settings of a generated data set.

    Attributes:
      size: edge of the square images, in pixels.
      clutter: probability of each kind of object that is a target elsewhere.
      prompt: what the model is told about every image; None for the family's own.
    """

    size: Annotated[int, Field(ge=32, le=256)] = 64
    clutter: Fraction = 0.7
    prompt: PromptKind | None = None


class PocketImages:
    """A generated data set; see `base.DataSet`.

    Attributes:
      name: "pocket_" and the family.
    """

    def __init__(self, family: str, settings: TaskSettings):
        if family not in KINDS:
            raise BadInputError(
                f"There is no family of images {family!r}; known are "
                f"{', '.join(KINDS)}."
            )
        self.name = f"pocket_{family}"
        options = parse_section(
            f"task_settings.{self.name}", settings.options, PocketOptions
        )
        self._family, self._options = KINDS[family], options
        self._seed, self._sizes = settings.seed, settings.sizes
        self.measure = self._family.measure
        self.prompt: PromptKind = options.prompt or self._family.prompt
        decides = [_VERSION, self.name, settings.seed, options.size, options.clutter]
        text = json.dumps([*decides, self.prompt, self.measure])
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def ids(self, split: Split) -> tuple[str, ...]:
        """The ids of one split, "NAME/SPLIT/0" and so on."""
        return tuple(
            f"{self.name}/{split}/{i}" for i in range(self._sizes.get(split, 0))
        )

    def example(self, id: str) -> Example:
        """Draws one image, uint8 [size, size, 3], and its mask.

        Raises:
          BadInputError: there is no such example.
        """
        name, _, rest = id.partition("/")
        split, _, place = rest.partition("/")
        known = name == self.name and split in list(Split)
        if not known or not place.isdecimal() or len(place) > 9:
            raise BadInputError(
                f"There is no example {id!r}; expected {self.name}/SPLIT/NUMBER."
            )
        entropy = [self._seed, self._family.code, _CODES[Split(split)], int(place)]
        rng, size = np.random.default_rng(entropy), self._options.size
        image, mask = self._family.draw(rng, size, self._options.clutter)
        image = image * rng.normal(1, 0.04, 3) + rng.normal(0, _GRAIN, image.shape)
        return Example((np.clip(image, 0, 1) * 255).round().astype(np.uint8), mask)
