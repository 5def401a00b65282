"""Files of every kind that data sets have, and the fit into SAM's square."""

import numpy as np
import pytest
from PIL import Image

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.segmentation.images import (
    fit_image,
    fit_mask,
    fitted_size,
    read_image,
    read_mask,
    read_pair,
)
from cycleqd_jax.tasks.segmentation.prompts import make_prompt

DRAW = np.random.RandomState(0)
PIXELS = DRAW.randint(0, 256, (6, 9, 3)).astype(np.uint8)
MASK = DRAW.random_sample((6, 9)) < 0.5


def _save(path, array, mode=None, **options):
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def _deep(values):
    return Image.fromarray(values.astype(np.uint16))


def test_kinds_of_images(tmp_path):
    plain = read_image(_save(tmp_path / "a.png", PIXELS))
    np.testing.assert_array_equal(plain, PIXELS)
    clear = np.dstack([PIXELS, np.full((6, 9), 7, np.uint8)])
    np.testing.assert_array_equal(read_image(_save(tmp_path / "b.png", clear)), PIXELS)
    grey = PIXELS[..., 0]
    for name, image in {
        "grey": grey,
        "deep": _deep(grey.astype(int) * 257),
        "palette": Image.fromarray(grey).convert("P"),
        "grey alpha": Image.fromarray(grey).convert("LA"),
    }.items():
        found = read_image(_save(tmp_path / f"{name}.png", image))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, np.dstack([grey] * 3), name)
    few = Image.fromarray(PIXELS).quantize(16)
    found = read_image(_save(tmp_path / "few.png", few))
    np.testing.assert_array_equal(found, np.asarray(few.convert("RGB")))


def test_exif_rotation(tmp_path):
    """Orientation 6 says: turn by 90 degrees clockwise to see it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = _save(tmp_path / "turned.png", PIXELS, exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(PIXELS, -1))
    path = _save(tmp_path / "turned.jpg", PIXELS, exif=exif)
    assert read_image(path).shape == (9, 6, 3)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("bits.png", lambda m: Image.fromarray(m)),
        ("grey.png", lambda m: Image.fromarray(m.astype(np.uint8) * 255)),
        ("one.png", lambda m: Image.fromarray(m.astype(np.uint8))),
        ("deep.png", lambda m: _deep(m * 65535)),
        ("deep one.png", lambda m: _deep(m * 1)),
        ("frame.tif", lambda m: Image.fromarray(m.astype(np.uint8) * 255)),
        ("frame.bmp", lambda m: Image.fromarray(m.astype(np.uint8) * 255)),
        ("red.png", lambda m: Image.fromarray(np.uint8(m[..., None] * [128, 0, 0]))),
        ("rgba.png", lambda m: Image.fromarray(m.astype(np.uint8) * 255)),
    ],
)
def test_kinds_of_masks(tmp_path, name, make):
    path = _save(tmp_path / name, make(MASK), "RGBA" if name == "rgba.png" else None)
    found = read_mask(path)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, MASK)


def test_palettes_and_edges_of_masks(tmp_path):
    labels = Image.fromarray(np.where(MASK, 1 + np.arange(9) % 2, 0).astype(np.uint8))
    labels.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    palette = _save(tmp_path / "voc.png", labels)
    np.testing.assert_array_equal(read_mask(palette), MASK)
    soft = np.uint8([[0, 100, 128, 129, 255]])
    found = read_mask(_save(tmp_path / "soft.png", soft))
    np.testing.assert_array_equal(found, [[False, False, False, True, True]])
    deep = read_mask(_save(tmp_path / "soft16.png", _deep(soft.astype(int) * 257)))
    np.testing.assert_array_equal(deep, found)


def test_noise_of_jpeg_is_no_foreground(tmp_path):
    big = np.kron(MASK, np.ones((16, 16), bool))
    found = read_mask(_save(tmp_path / "m.jpg", big.astype(np.uint8) * 255, quality=75))
    assert (found == big).mean() > 0.97
    noise = np.uint8(DRAW.randint(0, 4, (32, 32)))
    assert not read_mask(_save(tmp_path / "none.jpg", noise)).any()


def test_bad_files(tmp_path):
    whole = _save(tmp_path / "a.png", DRAW.randint(0, 255, (40, 40, 3)).astype("uint8"))
    cut, text = tmp_path / "cut.png", tmp_path / "page.jpg"
    cut.write_bytes(whole.read_bytes()[:900])
    text.write_text("<html>not found</html>")
    for path, words in ((cut, "cut.png cannot"), (text, "page.jpg cannot")):
        for read in (read_image, read_mask):
            with pytest.raises(BadInputError, match=rf"{words} be read as an image"):
                read(path)
    with pytest.raises(BadInputError, match=r"none\.png does not exist"):
        read_image(tmp_path / "none.png")
    with pytest.raises(BadInputError, match="cannot be read as an image"):
        read_image(tmp_path)
    real = _save(tmp_path / "real.tif", np.float32(MASK))
    with pytest.raises(BadInputError, match=r"real\.tif has values"):
        read_mask(real)
    mask = _save(tmp_path / "mask.png", MASK)
    with pytest.raises(BadInputError, match=r"mask\.png has 9x6 .*a\.png has 40x40"):
        read_pair(whole, mask)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged tags
@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "gif", "bmp"])
def test_flipped_bytes_are_one_sentence(tmp_path, kind, monkeypatch):
    """A damaged file is read or refused, never another error."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # a flip can make it huge
    path, draw = _save(tmp_path / f"a.{kind}", PIXELS), np.random.RandomState(3)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for _ in range(60):
        damaged = whole.copy()
        damaged[draw.randint(0, whole.size, 4)] = draw.randint(0, 256, 4)
        path.write_bytes(damaged[: draw.choice([whole.size, whole.size - 9])])
        for read in (read_image, read_mask):
            try:
                read(path)
            except BadInputError:
                refused += 1
    assert refused > 0


@pytest.fixture(scope="module")
def sam_processor():
    """The kind on Pillow, which needs no torchvision; the import takes seconds."""
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    return SamImageProcessorPil


@pytest.mark.parametrize("shape", [(50, 80), (80, 50), (64, 64), (13, 9), (200, 9)])
def test_fit_equals_transformers(sam_processor, shape):
    image = DRAW.randint(0, 256, (*shape, 3)).astype(np.uint8)
    mask = DRAW.random_sample(shape) < 0.5
    theirs = sam_processor(
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    )
    wanted = theirs(image, segmentation_maps=mask.astype(np.uint8))
    assert tuple(wanted["reshaped_input_sizes"][0]) == fitted_size(shape, 64)
    ours = fit_image(image, 64)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, wanted["pixel_values"][0], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(fit_mask(mask, 16), wanted["labels"][0] == 1)


def test_a_thread_of_an_image_keeps_a_pixel():
    """transformers would ask for a width of 0."""
    assert fitted_size((3000, 1), 64) == (64, 1)
    assert fit_image(np.zeros((3000, 1, 3), np.uint8), 64).shape == (3, 64, 64)


def test_prompts():
    mask = np.zeros((10, 20), bool)
    mask[2:7, 3:8] = True
    box, point = make_prompt(mask, "box"), make_prompt(mask, "point")
    np.testing.assert_array_equal(box.boxes, [[3, 2, 7, 6]])
    np.testing.assert_array_equal(point.points, [[5, 4]])
    assert (point.labels.tolist(), box.labels.tolist()) == ([1], [])
    nothing = make_prompt(mask, "none")
    assert not (nothing.points.size or nothing.labels.size or nothing.boxes.size)


def test_prompts_of_an_empty_mask_have_the_usual_shapes():
    mask = np.zeros((4, 6), bool)
    np.testing.assert_array_equal(make_prompt(mask, "box").boxes, [[0, 0, 5, 3]])
    point = make_prompt(mask, "point")
    assert (point.points.shape, point.labels.tolist()) == ((1, 2), [-1])


def test_scaled_prompts_equal_transformers(sam_processor):
    from transformers.models.sam.processing_sam import SamProcessor

    theirs = SamProcessor(sam_processor())
    mask = np.zeros((37, 91), bool)
    mask[5:30, 11:70] = True
    fitted = fitted_size(mask.shape, 64)
    for kind, name in (("box", "boxes"), ("point", "points")):
        prompt = make_prompt(mask, kind)
        wanted = theirs._normalize_coordinates(
            64, getattr(prompt, name), mask.shape, is_bounding_box=kind == "box"
        )
        ours = getattr(prompt.scaled(mask.shape, fitted), name)
        np.testing.assert_allclose(ours, wanted.reshape(ours.shape), rtol=1e-6)
