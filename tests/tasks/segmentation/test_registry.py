"""Data sets by name, and their examples as arrays."""

import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError, MissingDataError
from cycleqd_jax.tasks.base import Split, TaskSettings
from cycleqd_jax.tasks.segmentation.arrays import fit_examples
from cycleqd_jax.tasks.segmentation.pocket import KINDS
from cycleqd_jax.tasks.segmentation.registry import make_data_set

SETTINGS = TaskSettings(0, {Split.TRAIN: 3})


def test_every_generated_data_set_has_its_name():
    names = [f"pocket_{kind}" for kind in KINDS]
    made = [make_data_set(name, SETTINGS) for name in names]
    assert [data.name for data in made] == names
    assert {len(data.ids(Split.TRAIN)) for data in made} == {3}
    options = {"prompt": "point", "size": 96}
    leaves = make_data_set("pocket_leaves", TaskSettings(0, SETTINGS.sizes, 1, options))
    assert leaves.prompt == "point"
    assert leaves.example(leaves.ids(Split.TRAIN)[0]).mask.shape == (96, 96)


def test_unknown_and_missing_ones_are_named():
    with pytest.raises(BadInputError, match=r"'pocket_clouds'; known are pocket_camo"):
        make_data_set("pocket_clouds", SETTINGS)
    with pytest.raises(MissingDataError, match="kvasir"):
        make_data_set("kvasir_seg", SETTINGS)


@pytest.mark.parametrize("prompt", ["none", "box", "point"])
def test_arrays_are_the_examples_in_the_square_of_the_model(prompt):
    options = {"prompt": prompt, "size": 96}
    settings = TaskSettings(0, {Split.TRAIN: 3}, options=options)
    data = make_data_set("pocket_polyps", settings)
    ids = data.ids(Split.TRAIN)
    fitted = fit_examples(data, ids, 48, 24)
    assert fitted.pixels.shape == (3, 3, 48, 48) and fitted.pixels.dtype == np.float32
    assert fitted.labels.shape == (3, 24, 24) and fitted.labels.dtype == bool
    assert (fitted.boxes is None) == (prompt != "box")
    assert (fitted.points is None) == (prompt != "point")
    for place, id in enumerate(ids):
        mask = data.example(id).mask
        assert abs(fitted.labels[place].mean() - mask.mean()) < 0.03
        rows, columns = np.nonzero(mask)
        if prompt == "box":
            box = [columns.min(), rows.min(), columns.max(), rows.max()]
            np.testing.assert_allclose(fitted.boxes[place, 0], np.divide(box, 2))
        if prompt == "point":
            x, y = fitted.points[place, 0, 0] * 2
            assert mask[int(y), int(x)] and fitted.point_labels[place, 0, 0] == 1


def test_shapes_differ_in_size_and_place():
    data = make_data_set("pocket_shapes", TaskSettings(0, {Split.TRAIN: 40}))
    examples = [data.example(id) for id in data.ids(Split.TRAIN)]
    shares = np.array([e.mask.mean() for e in examples])
    assert 0 < shares.min() < 0.06 < 0.2 < shares.max() < 0.6
    assert len({e.image.tobytes() for e in examples}) == 40
    covered = np.mean([e.mask for e in examples], 0)
    assert (covered > 0).mean() > 0.8 and covered.max() < 0.5
