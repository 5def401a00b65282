"""Batches of images: which images, and what of them."""

import numpy as np
import pytest

from cycleqd_jax.tasks.base import Split, TaskSettings
from cycleqd_jax.tasks.segmentation.registry import make_data_set
from cycleqd_jax.training.images import batches
from cycleqd_jax.training.images.batches import ImageBatches, Images


def images(name="pocket_polyps", count=5, split=Split.TRAIN, **options):
    settings = TaskSettings(0, {split: count}, options=options)
    return Images(make_data_set(name, settings), split, 32)


def rows(batch):
    return {pixels.tobytes() for pixels in batch.pixels}


def test_every_epoch_has_each_image_once_in_a_new_order():
    source = images(count=6)
    made = ImageBatches([source], [1.0], batch_size=3, seed=1)
    whole = rows(source.take(range(6)))
    first, second = ([made.at(step) for step in steps] for steps in ((1, 2), (3, 4)))
    for epoch in (first, second):
        assert set.union(*(rows(batch) for batch in epoch)) == whole
    order = [[b.pixels.tobytes() for b in epoch] for epoch in (first, second)]
    assert order[0] != order[1]
    again = ImageBatches([source], [1.0], batch_size=3, seed=1).at(4)
    np.testing.assert_array_equal(again.pixels, second[1].pixels)
    np.testing.assert_array_equal(again.labels, second[1].labels)
    assert again.mask.tolist() == [1, 1, 1] and again.boxes is None


def test_sources_have_their_shares():
    few, many = images(count=2), images("pocket_leaves", count=9)
    made = ImageBatches([few, many], [1.0, 3.0], batch_size=8, seed=0)
    own = rows(few.take(range(2)))
    for step in (1, 2, 3):
        batch = made.at(step)
        assert sum(p.tobytes() in own for p in batch.pixels) == 2


@pytest.mark.parametrize("prompt", ["none", "box"])
def test_large_splits_are_read_for_every_batch_with_the_same_arrays(
    monkeypatch, prompt
):
    kept = images(prompt=prompt).take([3, 0])
    monkeypatch.setattr(batches, "_MOST_KEPT", 0)
    source = images(prompt=prompt)
    for one, other in zip(kept, source.take([3, 0]), strict=True):
        assert one is other is None or np.array_equal(one, other)
    assert source._kept is None


def test_the_last_batch_of_held_out_images_is_filled_with_rows_that_do_not_count():
    held_out = {"a": images(count=5, split=Split.VALIDATE)}
    curve = batches.ImageCurve(held_out, rows=4)
    assert curve.tasks == ("a",) and curve.images == 5
    found = list(curve._batches(held_out["a"]))
    assert [b.mask.tolist() for b in found] == [[1] * 4, [1, 0, 0, 0]]
    assert len(rows(found[1])) == 1
