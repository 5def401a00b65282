"""Masks as short texts, to be kept beside a verdict.

The text has height and width, then lengths of runs in reading order: background first
(perhaps 0), then foreground, in turn.
"""

import numpy as np


def to_text(mask: np.ndarray) -> str:
    """The text of a mask, bool [h, w]."""
    flat = np.concatenate([[False], mask.reshape(-1)])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return " ".join(map(str, (*mask.shape, *runs.tolist())))


def from_text(text: str) -> np.ndarray:
    """The mask of a text, bool [h, w].

    Raises:
      ValueError: it is not the text of a mask.
    """
    height, width, *runs = map(int, text.split())
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(height, width)
