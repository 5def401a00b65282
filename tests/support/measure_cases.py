"""Pairs of predictions and masks for the measures; `RandomState` never changes."""

import numpy as np


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> (prediction: uint8 or float64 in [0, 1], mask: bool), random and hard."""
    draw = np.random.RandomState(0)
    shapes = {"square": (24, 24), "wide": (7, 31), "tall": (29, 5), "row": (1, 9)}
    made = {}
    for name, shape in shapes.items():
        full, empty = np.ones(shape, bool), np.zeros(shape, bool)
        pixel, corner, hole = empty.copy(), empty.copy(), full.copy()
        pixel[shape[0] // 2, shape[1] // 3] = True
        corner[-1, -1] = True
        hole[0, 0] = False
        half = np.arange(shape[1])[None] < shape[1] / 2
        masks = {
            "full": full,
            "empty": empty,
            "pixel": pixel,
            "corner": corner,
            "hole": hole,
            "half": np.broadcast_to(half, shape).copy(),
            "random": draw.random_sample(shape) < 0.3,
        }
        for kind, mask in masks.items():
            noisy = 0.7 * mask + 0.3 * draw.random_sample(shape)
            predictions = {
                "same": mask.astype(float),
                "other": 1.0 - mask,
                "none": np.zeros(shape),
                "all": np.ones(shape),
                "grey": np.full(shape, 0.5),
                "noise": draw.random_sample(shape),
                "near": noisy,
                "bytes": (noisy * 200 + 20).astype(np.uint8),
                "one byte": np.full(shape, 77, np.uint8),
                "one pixel": pixel.astype(float),
            }
            for what, prediction in predictions.items():
                made[f"{name}/{kind}/{what}"] = (prediction, mask)
    dot = np.ones((1, 1), bool)
    made["dot/full"] = (np.full((1, 1), 0.25), dot)
    made["dot/empty"] = (np.full((1, 1), 0.25), ~dot)
    return made
