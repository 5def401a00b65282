"""Curves of a comparison."""

import io

import numpy as np
from PIL import Image

from cycleqd_jax.study.figures import draw_seconds, draw_tokens


def points(*rows):
    return {"curve": [{"tokens": t, "held_out": y} for t, y in rows]}


def test_curves_are_drawn_over_tokens_and_seconds():
    """A method without a search is a dot alone; seconds may lack a batch."""
    search = {
        "seeds": {"0": points((1, 0.2), (2, 0.4)), "1": points((1, 0.3), (3, 0.5))},
        "mean": 0.45,
        "interval": [0.4, 0.5],
        "tokens": 3.0,
    }
    alone = {"seeds": {}, "mean": 0.3, "interval": [0.2, 0.4], "tokens": None}
    summary = {"methods": {"cycleqd": search, "experts": alone}}
    times = {
        "cycleqd": {"seconds": 9.0, "seeds": {"0": [4.0, 9.0], "1": [5.0]}},
        "experts": {"seconds": None, "seeds": {}},
    }
    pictures = [draw_tokens(summary), draw_seconds(summary, times)]
    assert pictures[0] == draw_tokens(summary) != pictures[1]
    for png in pictures:
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
        assert 0.01 < np.mean(pixels < 128) < 0.2  # neither empty nor full
