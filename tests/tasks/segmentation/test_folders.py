"""Hand-made folders of tiny images in the layouts that data sets are downloaded in."""

import numpy as np
import pytest
from PIL import Image

from cycleqd_jax.errors import BadInputError, MissingDataError
from cycleqd_jax.tasks.base import Split, TaskSettings
from cycleqd_jax.tasks.segmentation.folders import FolderImages
from cycleqd_jax.tasks.segmentation.layouts import LAYOUTS

SIZES = {Split.TRAIN: 3, Split.OPTIMISE: 2, Split.VALIDATE: 2, Split.TEST: 2}
ISIC17 = "ISIC-2017_{}_Data", "ISIC-2017_{}_Part1_GroundTruth"
ISIC18 = "ISIC2018_Task1-2_{}_Input", "ISIC2018_Task1_{}_GroundTruth"


def _save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def _pair(image, mask, number):
    """The grey value of the image says its number; the mask has as many pixels."""
    _save(image, np.full((6, 8, 3), number, np.uint8))
    truth = np.zeros(48, np.uint8)
    truth[:number] = 255
    _save(mask, truth.reshape(6, 8))


def _folders(root, images, masks, numbers, name="{}", mask="{}", kinds=("png", "png")):
    for n in numbers:
        _pair(
            root / images / f"{name.format(n)}.{kinds[0]}",
            root / masks / f"{mask.format(name.format(n))}.{kinds[1]}",
            n,
        )


def _camo(root):
    root /= "CAMO-V.1.0-CVIU2019"
    name = "camourflage_{:05d}"
    _folders(root, "Images/Train", "GT", range(1, 11), name)
    _folders(root, "Images/Test", "GT", range(11, 14), name)


def _cod10k(root):
    root /= "COD10K-v3"
    for part, numbers in (("Train", range(1, 11)), ("Test", range(11, 14))):
        folders = f"{part}/Image", f"{part}/GT_Object"
        _folders(root, *folders, numbers, "COD10K-CAM-1-Aquatic-1-BatFish-{}")
        _folders(root, *folders, [40], "COD10K-NonCAM-5-Other-1-{}")


def _isic(names, test):
    def make(root):
        for part, numbers in (
            ("Training", range(1, 11)),
            ("Validation", range(11, 14)),
            (test, range(14, 17)),
        ):
            folders = [name.format(part) for name in names]
            _folders(root, *folders, numbers, "ISIC_{:07d}", "{}_segmentation")
            _save(
                root / folders[0] / "ISIC_0000001_superpixels.png",
                np.zeros((6, 8, 3), np.uint8),
            ) if names is ISIC17 else None

    return make


MAKE = {
    "camo": _camo,
    "cod10k": _cod10k,
    "kvasir_seg": lambda root: _folders(
        root / "Kvasir-SEG", "images", "masks", range(1, 14), "cju{:03d}"
    ),
    "cvc_clinicdb": lambda root: _folders(
        root / "CVC-ClinicDB", "Original", "Ground Truth", range(1, 14), "{}", "{}",
        ("tif", "tif"),
    ),
    "isic2017": _isic(ISIC17, "Test_v2"),
    "isic2018": _isic(ISIC18, "Test"),
    "leaf_disease": lambda root: _folders(
        root, "data/data/images", "data/data/masks", range(1, 14), "{:05d}"
    ),
}  # fmt: skip


def _open(name, root, **more):
    options = {"data": str(root), **more}
    return FolderImages(name, TaskSettings(0, SIZES, options=options))


@pytest.mark.parametrize("name", MAKE)
def test_layouts(tmp_path, name):
    """All splits, disjoint; every image has its own mask."""
    MAKE[name](tmp_path)
    data = _open(name, tmp_path)
    seen = []
    for split, size in SIZES.items():
        ids = data.ids(split)
        assert len(ids) == size
        seen += ids
        for id in ids:
            example = data.example(id)
            assert example.image.shape == (6, 8, 3)
            assert example.mask.sum() == example.image[0, 0, 0] < 40
    assert len(set(seen)) == len(seen)
    assert data.measure == LAYOUTS[name].measure
    assert data.prompt == "none"
    numbers = {s: [data.example(i).mask.sum() for i in data.ids(s)] for s in SIZES}
    if "test" in LAYOUTS[name].arrangements[0]:
        assert min(numbers[Split.TEST]) > 10 >= max(numbers[Split.TRAIN])
    if name == "cvc_clinicdb":  # neighbouring frames stay together
        assert numbers[Split.TEST] == [1, 2]
        assert numbers[Split.TRAIN] == [7, 8, 9]


def test_all_layouts_are_tested():
    assert MAKE.keys() == LAYOUTS.keys()


def test_lists(tmp_path):
    """Lists with the columns image and label, as the leaf disease set has them."""
    root = tmp_path / "leaf_disease_segmentation"
    for part, numbers in (("train", range(1, 8)), ("val", [8, 9]), ("test", [10, 11])):
        _folders(root, f"{part}_images", f"{part}_masks", numbers)
        rows = [f"{n},{part}_images/{n}.png,{part}_masks/{n}.png" for n in numbers]
        (root / f"{part}.csv").write_text("\n".join([",image,label", *rows]))
    data = _open("leaf_disease", tmp_path)
    test = {data.example(i).mask.sum() for i in data.ids(Split.TEST)}
    assert test == {10, 11}
    assert {data.example(i).mask.sum() for i in data.ids(Split.VALIDATE)} == {8, 9}
    (root / "val.csv").write_text("image,label\ntrain_images/1.png,train_masks/1.png")
    with pytest.raises(
        BadInputError, match="train_images/1 is an image of train and another of"
    ):
        _open("leaf_disease", tmp_path)
    (root / "val.csv").write_text("image,label\nnone.png,train_masks/1.png")
    with pytest.raises(BadInputError, match=r"val\.csv, line 2 names .*none\.png"):
        _open("leaf_disease", tmp_path)
    (root / "val.csv").write_text("image,mask\nnone.png,train_masks/1.png")
    with pytest.raises(BadInputError, match="expected the columns image and label"):
        _open("leaf_disease", tmp_path)
    (root / "val.csv").write_text("image,label\n")
    with pytest.raises(BadInputError, match=r"val\.csv has no images"):
        _open("leaf_disease", tmp_path)


def test_names_in_text_files(tmp_path):
    MAKE["kvasir_seg"](tmp_path)
    root = tmp_path / "Kvasir-SEG"
    (root / "train.txt").write_text("\n".join(f"cju{n:03d}" for n in range(1, 10)))
    (root / "val.txt").write_text("cju010\ncju011.png\n")
    data = _open("kvasir_seg", root)
    assert {data.example(i).mask.sum() for i in data.ids(Split.VALIDATE)} == {10, 11}
    (root / "val.txt").write_text("cju010\ncju099\n")
    with pytest.raises(BadInputError, match=r"val\.txt names cju099"):
        _open("kvasir_seg", root)


def test_equal_seeds_give_equal_splits(tmp_path):
    MAKE["kvasir_seg"](tmp_path)
    data = _open("kvasir_seg", tmp_path)
    again = _open("kvasir_seg", tmp_path)
    assert data.ids(Split.TRAIN) == again.ids(Split.TRAIN)
    assert data.fingerprint == again.fingerprint
    assert data.fingerprint != _open("kvasir_seg", tmp_path, prompt="box").fingerprint


@pytest.mark.parametrize("name", LAYOUTS)
def test_missing_data_say_how_to_get_them(tmp_path, name):
    with pytest.raises(MissingDataError, match=r"get it with: .*https://") as err:
        _open(name, tmp_path)
    assert f"task_settings.{name}.data" in str(err.value)
    assert " ... " not in str(err.value)  # too long to be shown
    with pytest.raises(MissingDataError, match="get it with"):
        FolderImages(name, TaskSettings(0, SIZES))


def test_what_is_wrong_with_a_folder(tmp_path):
    MAKE["camo"](tmp_path)
    root = tmp_path / "CAMO-V.1.0-CVIU2019"
    mask = root / "GT/camourflage_00003.png"
    whole = mask.read_bytes()
    mask.unlink()
    with pytest.raises(
        BadInputError, match=r"Train/camourflage_00003\.png has no mask"
    ):
        _open("camo", tmp_path)
    mask.write_bytes(whole[:40])
    data = _open("camo", tmp_path)
    with pytest.raises(BadInputError, match=r"00003\.png cannot be read"):
        data.example("camo/Images/Train/camourflage_00003")
    _save(mask, np.zeros((5, 5), np.uint8))
    with pytest.raises(BadInputError, match=r"00003\.png has 5x5 .* has 8x6"):
        data.example("camo/Images/Train/camourflage_00003")
    with pytest.raises(BadInputError, match="no example 'camo/nothing'"):
        data.example("camo/nothing")
    _save(root / "Images/Train/camourflage_00004.bmp", np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(BadInputError, match="camourflage_00004 is an image of train"):
        _open("camo", tmp_path)
    for image in (root / "Images/Test").iterdir():
        image.unlink()
    with pytest.raises(BadInputError, match="Images/Test has no images"):
        _open("camo", tmp_path)
    (root / "Images/Test").rmdir()
    with pytest.raises(MissingDataError, match="Images/Test is missing"):
        _open("camo", tmp_path)


def test_too_many_asked(tmp_path):
    MAKE["camo"](tmp_path)
    settings = TaskSettings(0, {Split.TEST: 4}, options={"data": str(tmp_path)})
    with pytest.raises(BadInputError, match=r"4 test make 4, but camo.* has only 3"):
        FolderImages("camo", settings)


def test_unknown_names(tmp_path):
    with pytest.raises(BadInputError, match="known are camo, cod10k"):
        _open("camoo", tmp_path)
    with pytest.raises(BadInputError, match="prompt"):
        _open("camo", tmp_path, prompt="circle")
