"""Masks at the size of the original image, against `transformers`."""

import numpy as np
import pytest
import torch
import transformers

from cycleqd_jax.models.masks import input_size, to_original

SIZE = 64


@pytest.mark.parametrize(
    "original", [(64, 64), (37, 80), (200, 91), (1, 50), (64, 3), (512, 512), (1, 1)]
)
def test_masks_are_resized_as_by_the_processor(original):
    processor = transformers.SamImageProcessorPil(
        size={"longest_edge": SIZE}, pad_size={"height": SIZE, "width": SIZE}
    )
    inside = input_size(original, SIZE)
    assert inside == processor._get_preprocess_shape(original, SIZE)
    logits = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
    want = processor.post_process_masks(
        [torch.tensor(m)[None] for m in logits],
        [original] * 2,
        [inside] * 2,
        binarize=False,
    )
    got = to_original(logits, original, SIZE)
    np.testing.assert_allclose(got, torch.cat(want).numpy(), atol=1e-5)


def test_a_pixel_is_left_of_every_image():
    assert input_size((1, 500), SIZE) == (1, SIZE)
    assert to_original(np.ones((8, 8)), (1, 500), SIZE).shape == (1, 500)
