import numpy as np
import pytest
import sam_twin

from cycleqd_jax.training.images.loss import ImageBatch


@pytest.fixture(scope="session")
def twin():
    """A random SAM of `transformers`, the program here, and its weights."""
    return sam_twin.twin(seed=5)


@pytest.fixture(scope="session")
def batch():
    """Two images and a row of padding, each with a box."""
    rng, size = np.random.default_rng(6), sam_twin.SIZE
    corners = np.sort(rng.uniform(0, size, (3, 2, 2)), axis=1)
    return ImageBatch(
        pixels=sam_twin.images(7, 3),
        labels=rng.random((3, size, size)) < 0.3,
        mask=np.float32([1, 1, 0]),
        boxes=corners.reshape(3, 1, 4).astype(np.float32),
    )
