"""The folders that public data sets are downloaded as."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from cycleqd_jax.tasks.segmentation.measures import Measure
from cycleqd_jax.tasks.segmentation.prompts import PromptKind

PartName = Literal["train", "validation", "test"]

_LISTED = "https://automl-mm-bench.s3.amazonaws.com/semantic_segmentation/"
_ISIC = "https://isic-challenge-data.s3.amazonaws.com/"


@dataclasses.dataclass(frozen=True)
class Part:
    """Images of one official part, or of all where a data set has no parts.

    Attributes:
      images: their folder.
      masks: the folders where masks may be; the first that is there has them.
      mask_name: what a mask is called, without its suffix, after its image's stem.
      only: a pattern of the stems of images; other files are left out.
    """

    images: str
    masks: tuple[str, ...]
    mask_name: str = "{}"
    only: str = "*"


@dataclasses.dataclass(frozen=True)
class Layout:
    """One public data set.

    Attributes:
      title: its name in messages.
      measure: that scores its masks, as in the paper's Table 4.
      how: the command or page to get it.
      arrangements: the ways in which it is packed; each maps parts to folders.
      roots: folders that may be around an arrangement.
      test_list: the list of test images, where the data set comes with lists.
      frames: whether neighbouring images show the same object, so that splits are cut
        in their order.
      prompt: what the model is told about every image by default.
    """

    title: str
    measure: Measure
    how: str
    arrangements: tuple[Mapping[PartName, Part], ...]
    roots: tuple[str, ...] = ()
    test_list: str = "test.csv"
    frames: bool = False
    prompt: PromptKind = "none"


def _fetched(address: str, *names: str) -> str:
    """The command that fetches and unpacks archives."""
    if len(names) == 1:
        return f"curl -LO {address}{names[0]}.zip && unzip {names[0]}.zip"
    return (
        f"for f in {' '.join(names)}; do curl -LO {address}$f.zip && unzip $f.zip; done"
    )


def _isic(
    year: int, images: Mapping[PartName, str], masks: Mapping[PartName, str]
) -> Layout:
    """Task 1 of a challenge; 2017 has superpixels beside its images."""
    parts = {
        part: Part(images[part], (masks[part],), "{}_segmentation", "ISIC_???????")
        for part in images
    }
    folders = [name for part in images for name in (images[part], masks[part])]
    return Layout(
        f"ISIC {year}", "jaccard", _fetched(f"{_ISIC}{year}/", *folders), (parts,)
    )


_NAMES: Mapping[PartName, str] = {
    "train": "Training",
    "validation": "Validation",
    "test": "Test",
}
_NAMES_2017: Mapping[PartName, str] = dict(_NAMES) | {"test": "Test_v2"}

LAYOUTS: Mapping[str, Layout] = {
    "camo": Layout(
        "CAMO",
        "structure",
        "https://sites.google.com/view/ltnghia/research/camo or, with lists, "
        + _fetched(_LISTED, "camo_sem_seg"),
        (
            {
                "train": Part("Images/Train", ("GT/Train", "GT")),
                "test": Part("Images/Test", ("GT/Test", "GT")),
            },
        ),
        ("CAMO-V.1.0-CVIU2019", "camo_sem_seg"),
        "test_CAMO.csv",
    ),
    "cod10k": Layout(
        "COD10K",
        "structure",
        "https://github.com/DengPingFan/SINet",
        (
            {
                "train": Part("Train/Image", ("Train/GT_Object",), only="COD10K-CAM-*"),
                "test": Part("Test/Image", ("Test/GT_Object",), only="COD10K-CAM-*"),
            },
        ),
        ("COD10K-v3",),
    ),
    "kvasir_seg": Layout(
        "Kvasir-SEG",
        "structure",
        _fetched("https://datasets.simula.no/downloads/", "kvasir-seg"),
        ({"train": Part("images", ("masks",))},),
        ("Kvasir-SEG", "polyp"),
        "test_Kvasir.csv",
    ),
    "cvc_clinicdb": Layout(
        "CVC-ClinicDB",
        "structure",
        "https://polyp.grand-challenge.org/CVCClinicDB/",
        tuple(
            {
                "train": Part(
                    f"{folder}Original",
                    tuple(f"{folder}Ground{gap}Truth" for gap in " _-"),
                )
            }
            for folder in ("", "PNG/", "TIF/")
        ),
        ("CVC-ClinicDB", "polyp"),
        "test_CVC-ClinicDB.csv",
        frames=True,
    ),
    "isic2017": _isic(
        2017,
        {part: f"ISIC-2017_{name}_Data" for part, name in _NAMES_2017.items()},
        {
            part: f"ISIC-2017_{name}_Part1_GroundTruth"
            for part, name in _NAMES_2017.items()
        },
    ),
    "isic2018": _isic(
        2018,
        {part: f"ISIC2018_Task1-2_{name}_Input" for part, name in _NAMES.items()},
        {part: f"ISIC2018_Task1_{name}_GroundTruth" for part, name in _NAMES.items()},
    ),
    "leaf_disease": Layout(
        "the leaf disease segmentation set",
        "jaccard",
        _fetched(_LISTED, "leaf_disease_segmentation")
        + " or https://www.kaggle.com/datasets/fakhrealam9537/"
        "leaf-disease-segmentation-dataset",
        tuple(
            {"train": Part(f"{folder}images", (f"{folder}masks",))}
            for folder in ("data/data/", "data/", "")
        ),
        ("leaf_disease_segmentation",),
    ),
}
