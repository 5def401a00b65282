"""Generated images: the same by seed, never in two splits, opponents of each other."""

import numpy as np
import pixel_experts
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.base import Split, TaskSettings
from cycleqd_jax.tasks.segmentation.families import FAMILIES
from cycleqd_jax.tasks.segmentation.pocket import PocketImages

SIZES = {Split.TRAIN: 12, Split.OPTIMISE: 4, Split.VALIDATE: 4, Split.TEST: 4}


def _data(family, seed=0, **options):
    return PocketImages(family, TaskSettings(seed, SIZES, options=options))


def _examples(data, split):
    return [data.example(id) for id in data.ids(split)]


@pytest.mark.parametrize("family", FAMILIES)
def test_images_and_masks(family):
    data = _data(family)
    for size, made in ((64, data), (96, _data(family, size=96))):
        example = made.example(f"pocket_{family}/train/0")
        assert example.image.shape == (size, size, 3)
        assert example.image.dtype == np.uint8
        assert example.mask.shape == (size, size)
        assert example.mask.dtype == bool
    shares = [e.mask.mean() for e in _examples(data, Split.TRAIN)]
    assert min(shares) > 0.005
    assert 0.03 < np.mean(shares) < 0.4
    assert (data.measure, data.prompt) == (FAMILIES[family].measure, "none")


@pytest.mark.parametrize("family", FAMILIES)
def test_seeds(family):
    """Bit-equal whatever was drawn before; another seed gives other images."""
    data, id = _data(family), f"pocket_{family}/test/3"
    first = data.example(id)
    data.example(f"pocket_{family}/train/0")
    again, other = data.example(id), _data(family, seed=1).example(id)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert (first.image != other.image).mean() > 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_no_image_is_in_two_splits(family):
    data = _data(family)
    images = [e.image.tobytes() for s in SIZES for e in _examples(data, s)]
    assert len(set(images)) == sum(SIZES.values())


def test_a_longer_split_begins_with_the_shorter():
    longer = PocketImages("leaves", TaskSettings(0, {Split.TEST: 9}))
    assert longer.ids(Split.TEST)[:4] == _data("leaves").ids(Split.TEST)
    assert longer.ids(Split.TRAIN) == ()
    assert longer.fingerprint == _data("leaves").fingerprint


def test_fingerprints_differ_with_what_decides_the_images():
    made = [_data("polyps"), _data("leaves"), _data("polyps", seed=1)]
    made += [_data("polyps", **o) for o in ({"size": 96}, {"clutter": 0.1})]
    made.append(_data("polyps", prompt="box"))
    assert len({data.fingerprint for data in made}) == len(made)


def test_families_are_opponents():
    """A rule over pixels that was fitted to one family is poor on the others."""
    sizes = {Split.TRAIN: 24, Split.TEST: 12}
    made = {f: PocketImages(f, TaskSettings(0, sizes)) for f in FAMILIES}
    test = {f: _examples(data, Split.TEST) for f, data in made.items()}
    scores = {}
    for family, data in made.items():
        expert = pixel_experts.fit(_examples(data, Split.TRAIN))
        scores[family] = {f: pixel_experts.mean_jaccard(expert, test[f]) for f in test}
    for family in FAMILIES:
        rivals = [scores[f][family] for f in FAMILIES if f != family]
        assert scores[family][family] > max(rivals) + 0.1, scores


def test_bad_input():
    with pytest.raises(BadInputError, match="known are camouflage, polyps"):
        _data("clouds")
    with pytest.raises(BadInputError, match=r"task_settings\.pocket_polyps\.size"):
        _data("polyps", size=8)
    for id in ("pocket_leaves/test/0", "pocket_polyps/all/0", "pocket_polyps/test/x"):
        with pytest.raises(BadInputError, match=r"expected pocket_polyps/SPLIT/NUMBER"):
            _data("polyps").example(id)
