"""Around the harness: its noise is kept back, and global generators are put back."""

import contextlib
import io
import logging
import random
import warnings
from collections.abc import Iterator

import numpy as np

_LOUD = ("lm_eval", "datasets", "huggingface_hub")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The harness draws bars and prints; progress is told elsewhere."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            # Of other libraries, about themselves: nothing that a user can mend.
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Tasks may draw from the global generators; afterwards these are as before."""
    ours, theirs = random.getstate(), np.random.get_state()
    random.seed(0)  # the harness's own default, whatever the seed of the examples
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)
