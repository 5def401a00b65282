"""Noise, shapes and objects that generated images are made of.

Positions are in [-1, 1]; images are float64 [size, size, 3] in [0, 1] and are changed
in place. A shape is its depth: float64 [size, size], pixels from its edge, positive
inside. All randomness comes from `rng`.
"""

import functools
from collections.abc import Sequence

import numpy as np

Colour = Sequence[float] | np.ndarray
_LIGHT = np.array([-0.5, -0.6])  # from the upper left


@functools.cache
def axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of pixels: x [1, size] and y [size, 1]."""
    line = (np.arange(size) + 0.5) / size * 2 - 1
    return line[None, :], line[:, None]


@functools.cache
def _blend(size: int, cells: int) -> np.ndarray:
    """Weights of cells + 1 random values in each of `size` pixels."""
    place = (np.arange(size) + 0.5) / size * cells
    left = np.minimum(place.astype(int), cells - 1)
    part = place - left
    part = part * part * (3 - 2 * part)
    weights = np.zeros((size, cells + 1))
    weights[np.arange(size), left] = 1 - part
    weights[np.arange(size), left + 1] = part
    return weights


def noise(
    rng: np.random.Generator, size: int, cells: int, octaves: int = 1
) -> np.ndarray:
    """Smooth noise around 0 with a deviation of nearly 1, float64 [size, size].

    Args:
      rng: source of randomness.
      size: of the image.
      cells: bumps along an edge; doubled with every further octave.
      octaves: each has half the height of the one before.
    """
    total = np.zeros((size, size))
    for octave in range(octaves):
        weights = _blend(size, min(cells << octave, size))
        many = weights.shape[1]
        total += weights @ rng.standard_normal((many, many)) @ weights.T / (1 << octave)
    return total * 1.4


def blob(
    rng: np.random.Generator,
    size: int,
    radius: float,
    centre: Colour | None = None,
    rough: float = 0.1,
    stretch: float = 1.0,
) -> np.ndarray:
    """The depth of a lobed ellipse.

    Args:
      rng: source of randomness.
      size: of the image.
      radius: mean, in [0, 1].
      centre: x and y; None for a random one where most of it is inside.
      rough: height of the lobes relative to the radius.
      stretch: long by short axis.
    """
    if centre is None:
        room = max(0.0, 0.9 - radius)
        centre = rng.uniform(-room, room, 2)
    x, y = axes(size)
    turn, root = rng.uniform(0, np.pi), np.sqrt(stretch)
    dx, dy = x - centre[0], y - centre[1]
    u = (dx * np.cos(turn) + dy * np.sin(turn)) / root
    v = (dy * np.cos(turn) - dx * np.sin(turn)) * root
    angle, edge = np.arctan2(v, u), np.full((size, size), 1.0)
    for wave in range(2, 7):
        height = rough * rng.standard_normal() / np.sqrt(wave)
        edge += height * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    return (radius * np.maximum(edge, 0.3) - np.hypot(u, v)) * size / 2


def cover(depth: np.ndarray, soft: float = 1.0) -> np.ndarray:
    """Opacity of a shape, float64 [size, size]; its edge is `soft` pixels wide."""
    return np.clip(depth / soft + 0.5, 0, 1)


def paint(image: np.ndarray, opacity: np.ndarray, colour: Colour) -> None:
    """Lays a colour, or a picture [size, size, 3], over an image."""
    image += opacity[..., None] * (np.asarray(colour) - image)


def jitter(rng: np.random.Generator, colour: Colour, by: float = 0.05) -> np.ndarray:
    """A colour near another: brightness and hue vary."""
    return np.asarray(colour) * rng.normal(1, by) + rng.normal(0, by / 2, 3)


def dome(
    rng: np.random.Generator,
    image: np.ndarray,
    depth: np.ndarray,
    colour: Colour,
    opacity: float = 1.0,
    gloss: float = 0.8,
) -> None:
    """Draws a raised, glossy bump: lit from the upper left, with a shadow beside it."""
    size = len(depth)
    top = max(depth.max(), 1.0)
    rise = np.sqrt(np.clip(1 - (1 - np.clip(depth / top, 0, 1)) ** 2, 0, 1))
    slope_y, slope_x = np.gradient(rise * top)
    light = 1 + 0.22 * np.clip(slope_x * -_LIGHT[0] + slope_y * -_LIGHT[1], -1.5, 1.5)
    light -= 0.04
    shadow = np.roll(cover(depth, 3.0), (max(1, size // 40),) * 2, axis=(0, 1))
    image *= 1 - 0.3 * (shadow * (1 - cover(depth)))[..., None]
    paint(image, opacity * cover(depth), np.clip(np.asarray(colour), 0, 1))
    image *= np.where(depth > -0.5, light, 1)[..., None]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    shift = top * 0.45 * _LIGHT
    line_x, line_y = axes(size)
    spot = np.hypot(
        (line_x + 1) * size / 2 - x - shift[0], (line_y + 1) * size / 2 - y - shift[1]
    )
    shine = np.exp(-((spot / max(0.16 * top, 0.8)) ** 2))
    paint(image, gloss * shine * (depth > 0), (1.0, 0.98, 0.95))


def stain(
    rng: np.random.Generator,
    image: np.ndarray,
    depth: np.ndarray,
    colours: Sequence[Colour],
    soft: float = 2.0,
    opacity: float = 0.9,
) -> None:
    """Draws a flat, mottled patch of several colours with a soft edge."""
    size = len(depth)
    picture = np.broadcast_to(np.asarray(colours[0], float), image.shape).copy()
    for colour in colours[1:]:
        paint(picture, cover(noise(rng, size, 5, 2) - 0.3, 0.8), colour)
    picture *= 1 + 0.06 * noise(rng, size, 16)[..., None]
    paint(image, opacity * cover(depth, soft), picture)


def spots(
    rng: np.random.Generator,
    image: np.ndarray,
    many: int,
    radius: tuple[float, float],
    colour: Colour,
    halo: Colour | None = None,
    inside: np.ndarray | None = None,
) -> np.ndarray:
    """Draws small round patches, and returns where they are: bool [size, size].

    Args:
      rng: source of randomness.
      image: to draw on.
      many: spots to draw.
      radius: least and largest, in [0, 1].
      colour: of the spots.
      halo: colour of a ring around each; it is not part of the spot.
      inside: depth of a shape that has all spots; None for the whole image.
    """
    size, found = len(image), np.zeros(image.shape[:2], bool)
    within = np.full(found.shape, np.inf) if inside is None else inside
    places = np.argwhere(within > 2)
    reach = int(radius[1] * size) + 4  # pixels; the windows of all spots
    for _ in range(many if len(places) else 0):
        y, x = places[rng.integers(len(places))]
        edge = 2 * reach + 1
        scale = rng.uniform(*radius) * size / edge
        depth = blob(rng, edge, scale, (0, 0), 0.15, rng.uniform(1, 1.8))
        top, left = max(0, y - reach), max(0, x - reach)
        window = np.s_[top : y + reach + 1, left : x + reach + 1]
        depth = depth[top - y + reach :, left - x + reach :]
        part = image[window]
        depth = np.minimum(depth[: len(part), : part.shape[1]], within[window])
        if halo is not None:
            paint(part, 0.75 * cover(depth + 1.5, 3.0) * cover(depth + 1.5), halo)
        paint(part, 0.92 * cover(depth), jitter(rng, colour, 0.08))
        paint(part, 0.5 * cover(depth - depth.max() * 0.6), jitter(rng, colour))
        found[window] |= depth > 0
    return found


def lines(
    rng: np.random.Generator, image: np.ndarray, many: int, colour: Colour
) -> None:
    """Draws thin bent lines, such as hairs."""
    x, y = axes(len(image))
    for _ in range(many):
        turn, place, bend = (
            rng.uniform(0, np.pi),
            rng.uniform(-1, 1),
            rng.normal(0, 0.3),
        )
        u = x * np.cos(turn) + y * np.sin(turn)
        v = y * np.cos(turn) - x * np.sin(turn)
        start = rng.uniform(-1.4, 0.6)
        long = (u > start) & (u < start + rng.uniform(0.8, 2.2))
        away = np.abs(v - place - bend * u * u) * len(image) / 2
        paint(image, 0.8 * long * np.clip(rng.uniform(0.7, 1.3) - away, 0, 1), colour)


def vignette(rng: np.random.Generator, image: np.ndarray, radius: float) -> np.ndarray:
    """Darkens what an optic does not see; returns its opacity [size, size]."""
    x, y = axes(len(image))
    away = np.hypot(x - rng.normal(0, 0.04), y - rng.normal(0, 0.04))
    dark = np.clip((away - radius) * 8, 0, 1)
    paint(image, dark, (0.02, 0.02, 0.02))
    return dark
