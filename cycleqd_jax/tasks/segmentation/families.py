"""Four kinds of generated images, after four kinds of public data sets.

The kinds are opponents: each target of one kind is background in the others. Textured
shapes, glossy bumps, dark stains and small brown spots are in all of them.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from cycleqd_jax.tasks.segmentation import drawing
from cycleqd_jax.tasks.segmentation.drawing import blob, cover, jitter, noise, paint
from cycleqd_jax.tasks.segmentation.measures import Measure
from cycleqd_jax.tasks.segmentation.prompts import PromptKind

Drawn = tuple[np.ndarray, np.ndarray]  # image float64 [size, size, 3], mask bool
Draw = Callable[[np.random.Generator, int, float], Drawn]

_HABITATS = (  # two colours of a texture
    ((0.62, 0.52, 0.36), (0.80, 0.72, 0.55)),  # sand
    ((0.22, 0.30, 0.12), (0.48, 0.55, 0.25)),  # moss
    ((0.28, 0.20, 0.14), (0.55, 0.44, 0.33)),  # bark
    ((0.35, 0.37, 0.38), (0.66, 0.66, 0.64)),  # stone
    ((0.16, 0.32, 0.36), (0.50, 0.58, 0.50)),  # reef
)
_SKINS = (
    (0.90, 0.73, 0.64),
    (0.82, 0.62, 0.50),
    (0.93, 0.78, 0.72),
    (0.66, 0.47, 0.36),
)
_PIGMENTS = ((0.36, 0.21, 0.15), (0.22, 0.13, 0.11), (0.50, 0.33, 0.24))
_RESIDUE = (0.45, 0.30, 0.12)


def texture(
    rng: np.random.Generator, size: int, kind: int, waves: float, turn: float
) -> np.ndarray:
    """Stripes, scales or speckles across an image, nearly in [0, 1]."""
    x, y = drawing.axes(size)
    u = x * np.cos(turn) + y * np.sin(turn)
    v = y * np.cos(turn) - x * np.sin(turn)
    bend = 0.6 * noise(rng, size, 4)
    stripes = np.sin(waves * np.pi * u + bend)
    if kind == 1:
        stripes = stripes * np.cos(waves * 0.5 * np.pi * v + bend)
    elif kind == 2:
        stripes = 0.5 * stripes + 0.5 * noise(rng, size, int(waves * 2))
    return 0.5 + 0.3 * stripes + 0.1 * noise(rng, size, size // 2)


def camouflage(rng: np.random.Generator, size: int, clutter: float) -> Drawn:
    """An animal whose skin has its habitat's colours; its pattern runs another way."""
    low, high = (jitter(rng, c) for c in _HABITATS[rng.integers(len(_HABITATS))])
    kind, turn = rng.integers(3), rng.uniform(0, np.pi)
    waves = rng.uniform(5, 8)
    image = low + texture(rng, size, kind, waves, turn)[..., None] * (high - low)
    if rng.random() < clutter:  # dark stones
        stone = blob(rng, size, rng.uniform(0.12, 0.28), None, 0.15, 1.3)
        drawing.stain(rng, image, stone, [low * 0.35, low * 0.5])
    if rng.random() < clutter:  # pebbles
        pebble = blob(rng, size, rng.uniform(0.12, 0.26), None, 0.08, 1.3)
        drawing.dome(rng, image, pebble, (low + high) / 2, gloss=0.5)
    if rng.random() < clutter:
        drawing.spots(rng, image, rng.integers(3, 9), (0.03, 0.08), low * 0.5)
    radius = rng.uniform(0.24, 0.4)
    centre = rng.uniform(-0.4, 0.4, 2)
    shape = blob(rng, size, radius, centre, 0.1, rng.uniform(1.2, 2.2))
    for _ in range(rng.integers(2, 5)):  # head, tail, fins
        away = rng.uniform(0, 2 * np.pi)
        place = centre + radius * np.array([np.cos(away), np.sin(away)])
        limb = blob(rng, size, radius * rng.uniform(0.3, 0.5), place, 0.1, 1.6)
        shape = np.maximum(shape, limb)
    waves *= rng.choice([0.55, 1.7])
    skin = texture(rng, size, kind, waves, turn + np.pi / 2 + rng.normal(0, 0.2))
    tone = rng.choice([-0.12, 0.12]) + skin
    paint(image, cover(shape, 1.5), low + tone[..., None] * (high - low))
    image *= 1 - 0.22 * np.exp(-((shape / 1.1) ** 2))[..., None]
    return image, shape > 0


def polyps(rng: np.random.Generator, size: int, clutter: float) -> Drawn:
    """A glossy bump on wet, folded mucosa with vessels, seen through an endoscope."""
    x, y = drawing.axes(size)
    flesh = jitter(rng, (0.78, 0.40, 0.33), 0.07)
    image = flesh * (1 + 0.10 * noise(rng, size, 3, 3))[..., None]
    eye = rng.uniform(-1.2, 1.2, 2)
    folds = np.hypot(x - eye[0], y - eye[1]) + 0.08 * noise(rng, size, 3)
    folds = np.sin(rng.uniform(4, 9) * folds + rng.uniform(0, 2 * np.pi))
    image *= (1 + 0.16 * folds - 0.15 * (folds < -0.85))[..., None]
    vessels = np.clip(1 - np.abs(noise(rng, size, 5, 2)) / 0.09, 0, 1)
    paint(image, 0.35 * vessels, flesh * (0.75, 0.4, 0.45))
    if rng.random() < clutter:  # the lumen
        lumen = blob(rng, size, rng.uniform(0.2, 0.4), None, 0.12, 1.4)
        drawing.stain(rng, image, lumen, [(0.13, 0.04, 0.04)], size / 10, 0.95)
    if rng.random() < clutter:
        drawing.spots(rng, image, rng.integers(3, 10), (0.03, 0.09), _RESIDUE)
    shape = blob(rng, size, rng.uniform(0.22, 0.5), None, 0.07, rng.uniform(1, 1.6))
    colour = flesh * rng.choice([(1.12, 0.85, 0.85), (1.1, 1.35, 1.3), (1.0, 1.0, 0.9)])
    own = colour * (1 + 0.07 * noise(rng, size, 10, 2))[..., None]
    drawing.dome(rng, image, shape, own)
    shine = cover(noise(rng, size, 16) + 0.5 * folds - 3.2, 0.5) * (shape < -2)
    paint(image, 0.85 * shine, (1.0, 0.97, 0.94))
    dark = drawing.vignette(rng, image, rng.uniform(1.0, 1.25))
    if rng.random() < 0.25:  # where the endoscope is
        image[-size // 5 :, : size // 4] = (0.08, 0.45, 0.25)
        shape[-size // 5 :, : size // 4] = -1
    return image, (shape > 0) & (dark < 0.5)


def lesions(rng: np.random.Generator, size: int, clutter: float) -> Drawn:
    """A dark, mottled stain on skin, under hairs."""
    skin = jitter(rng, _SKINS[rng.integers(len(_SKINS))])
    image = skin * (1 + 0.04 * noise(rng, size, 3, 2))[..., None]
    image *= (1 + 0.03 * noise(rng, size, size // 3))[..., None]
    if rng.random() < clutter:  # dry skin: another texture, the same colours
        dry = blob(rng, size, rng.uniform(0.2, 0.4), None, 0.2)
        flakes = texture(rng, size, 0, 9, rng.uniform(0, np.pi))[..., None]
        paint(image, cover(dry, 3), skin * (0.9 + 0.16 * flakes))
    if rng.random() < clutter:  # a raised, pink papule
        papule = blob(rng, size, rng.uniform(0.16, 0.34), None, 0.06)
        drawing.dome(rng, image, papule, skin * (1.05, 0.82, 0.82), gloss=0.6)
    if rng.random() < clutter:
        drawing.spots(
            rng, image, rng.integers(3, 12), (0.025, 0.07), skin * (0.7, 0.6, 0.5)
        )
    shape = blob(rng, size, rng.uniform(0.28, 0.62), None, 0.13, rng.uniform(1, 1.5))
    blend = rng.uniform(0, 0.35)
    pigments = [jitter(rng, c) * (1 - blend) + blend * skin for c in _PIGMENTS]
    if rng.random() < 0.4:
        pigments.append((0.38, 0.40, 0.46))
    rng.shuffle(pigments)
    drawing.stain(rng, image, shape, pigments, rng.uniform(1.5, 4))
    drawing.lines(rng, image, rng.integers(0, 13), jitter(rng, (0.13, 0.09, 0.08)))
    if rng.random() < 0.3:
        drawing.vignette(rng, image, rng.uniform(1.05, 1.25))
    if rng.random() < 0.25:  # a ruler
        image[:3, :: max(3, size // 16)] = 0.1
    return image, shape > 0


def leaves(rng: np.random.Generator, size: int, clutter: float) -> Drawn:
    """Brown spots with yellow rings on a green leaf."""
    x, y = drawing.axes(size)
    ground = [(0.30, 0.23, 0.17), (0.25, 0.35, 0.18), (0.72, 0.72, 0.70)]
    image = (
        jitter(rng, ground[rng.integers(3)]) + 0.07 * noise(rng, size, 4, 3)[..., None]
    )
    if rng.random() < clutter:  # crumbs beside the leaf
        drawing.spots(rng, image, rng.integers(8, 20), (0.04, 0.09), _RESIDUE)
    turn, wide = rng.uniform(0, np.pi), rng.uniform(0.55, 0.85)
    u = x * np.cos(turn) + y * np.sin(turn) - rng.normal(0, 0.08)
    v = y * np.cos(turn) - x * np.sin(turn) - rng.normal(0, 0.08)
    half = wide * np.clip(1 - (u / 1.15) ** 2, 0, 1) ** 0.8
    half *= 1 + 0.03 * np.sin(24 * u)  # teeth
    leaf = (half - np.abs(v)) * size / 2
    green = jitter(rng, [(0.26, 0.46, 0.16), (0.38, 0.56, 0.20)][rng.integers(2)])
    blade = green * (1 + 0.08 * noise(rng, size, 4, 3))[..., None]
    side = np.abs(np.sin((np.abs(v) * 0.8 - u) * rng.uniform(9, 13)))
    veins = np.maximum(
        np.clip(1 - side * 5, 0, 1) * 0.5, np.clip(1.2 - 40 * np.abs(v), 0, 1)
    )
    paint(blade, 0.6 * veins, green * 1.35)
    paint(image, cover(leaf), blade)
    if rng.random() < clutter:  # a shadow, or a hole to dark ground
        hole = np.minimum(blob(rng, size, rng.uniform(0.15, 0.3), None, 0.15), leaf)
        drawing.stain(rng, image, hole, [(0.10, 0.11, 0.07), (0.16, 0.14, 0.09)], 1.5)
    for _ in range(rng.integers(1, 4) if rng.random() < clutter else 0):
        drop = blob(rng, size, rng.uniform(0.09, 0.18), None, 0.04)
        drawing.dome(rng, image, drop, green * 1.15, 0.5)
    rust = [(0.48, 0.28, 0.12), (0.62, 0.45, 0.25), (0.36, 0.22, 0.12)]
    mask = drawing.spots(
        rng,
        image,
        int(rng.integers(3, 16)),
        (0.06, 0.17),
        jitter(rng, rust[rng.integers(3)]),
        jitter(rng, (0.74, 0.68, 0.22)),
        leaf,
    )
    return image, mask


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of images.

    Attributes:
      draw: (rng, size, clutter) -> image, nearly in [0, 1], and mask.
      measure: that scores its masks, as in the paper's Table 4.
      prompt: what the model is told about each image by default.
      code: part of the seed of every image; never changes.
    """

    draw: Draw
    measure: Measure
    prompt: PromptKind
    code: int


FAMILIES = {
    "camouflage": Family(camouflage, "structure", "none", 1),
    "polyps": Family(polyps, "structure", "none", 2),
    "lesions": Family(lesions, "jaccard", "none", 3),
    "leaves": Family(leaves, "jaccard", "none", 4),
}
