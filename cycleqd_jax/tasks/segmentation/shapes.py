"""Generated images of shapes of any colour, texture and number, to train a base on.

They are of none of the four families, where only one kind of shape is foreground: here
all shapes are.
"""

import numpy as np

from cycleqd_jax.tasks.segmentation import drawing
from cycleqd_jax.tasks.segmentation.drawing import blob, cover, noise, paint
from cycleqd_jax.tasks.segmentation.families import Drawn, Family, texture


def shapes(rng: np.random.Generator, size: int, clutter: float) -> Drawn:
    """Shapes on a ground, some with its colours.

    Args:
      rng: source of randomness.
      size: of the image.
      clutter: probability of lines, and of small spots, which are never the foreground.
    """
    ground = rng.uniform(0.05, 0.95, 3)
    image = _fill(rng, size, ground)
    mask = np.zeros((size, size), bool)
    for _ in range(rng.integers(1, 5)):
        depth = _depth(rng, size)
        near = np.clip(ground + rng.normal(0, 0.1, 3), 0, 1)
        colour = rng.uniform(0.05, 0.95, 3) if rng.random() < 0.6 else near
        _draw(rng, image, depth, colour)
        mask |= depth > 0
    if rng.random() < clutter / 2:
        drawing.lines(rng, image, rng.integers(1, 10), rng.uniform(0.05, 0.95, 3))
    if rng.random() < clutter / 2:
        colour = rng.uniform(0.05, 0.95, 3)
        drawing.spots(rng, image, rng.integers(2, 8), (0.03, 0.08), colour)
    return image, mask


SHAPES = Family(shapes, "jaccard", "none", 5)


def _depth(rng: np.random.Generator, size: int) -> np.ndarray:
    """One blob, or two that touch."""
    radius, rough = rng.uniform(0.08, 0.4), rng.uniform(0, 0.2)
    place = rng.uniform(-0.75, 0.75, 2)
    depth = blob(rng, size, radius, place, rough, rng.uniform(1, 2.5))
    if rng.random() < 0.3:
        place = place + rng.uniform(-radius, radius, 2)
        depth = np.maximum(depth, blob(rng, size, 0.6 * radius, place, rough, 1.5))
    return depth


def _draw(
    rng: np.random.Generator, image: np.ndarray, depth: np.ndarray, colour: np.ndarray
) -> None:
    """A bump, a flat shape or a mottled one."""
    style, size = rng.integers(3), len(depth)
    if style == 0:
        own = _fill(rng, size, colour)
        drawing.dome(rng, image, depth, own, gloss=rng.uniform(0, 0.9))
    elif style == 1:
        soft = rng.uniform(0.5, 4)
        paint(image, cover(depth, soft), _fill(rng, size, colour))
    else:
        other = np.clip(colour + rng.normal(0, 0.1, 3), 0, 1)
        soft, opacity = rng.uniform(1, 4), rng.uniform(0.7, 1)
        drawing.stain(rng, image, depth, [colour, other], soft, opacity)


def _fill(rng: np.random.Generator, size: int, colour: np.ndarray) -> np.ndarray:
    """A picture [size, size, 3]: plain, clouded or textured."""
    kind = rng.integers(4)
    if kind == 0:
        return np.broadcast_to(colour, (size, size, 3)).copy()
    if kind == 1:
        clouds = noise(rng, size, int(rng.integers(2, 9)), 3)
        return colour * (1 + rng.uniform(0.03, 0.2) * clouds)[..., None]
    other = np.clip(colour + rng.normal(0, 0.2, 3), 0, 1)
    waves, turn = rng.uniform(3, 12), rng.uniform(0, np.pi)
    pattern = texture(rng, size, rng.integers(3), waves, turn)
    return colour + pattern[..., None] * (other - colour)
