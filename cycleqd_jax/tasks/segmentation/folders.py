"""Public data sets on disk, in the folders that they are downloaded as.

An official test or validation part becomes that split; the others are cut from the
training part by seed. `train.csv`, `val.csv` and a test list, each with the columns
`image` and `label`, replace the official parts, and so do `train.txt`, `val.txt` and
`test.txt` with names of images.
"""

import csv
import dataclasses
import fnmatch
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from cycleqd_jax.errors import BadInputError, MissingDataError
from cycleqd_jax.files import PathText, Section, parse_section, reason
from cycleqd_jax.tasks.base import Split, TaskSettings
from cycleqd_jax.tasks.data import seeded_splits
from cycleqd_jax.tasks.segmentation.base import Example
from cycleqd_jax.tasks.segmentation.images import read_pair
from cycleqd_jax.tasks.segmentation.layouts import LAYOUTS, Layout, Part, PartName
from cycleqd_jax.tasks.segmentation.prompts import PromptKind

_IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
_LISTS: Mapping[PartName, str] = {"train": "train", "validation": "val", "test": "test"}
# In this order splits are cut from a part: `test` stays when others grow.
_ORDER = (Split.TEST, Split.OPTIMISE, Split.VALIDATE, Split.TRAIN)
_SOURCES: Mapping[Split, PartName] = {Split.TEST: "test", Split.VALIDATE: "validation"}


class FolderOptions(Section):
    """Settings of a data set on disk.

    Attributes:
      data: its folder, or the one around it.
      prompt: what the model is told about every image; None for the layout's own.
    """

    data: PathText | None = None
    prompt: PromptKind | None = None


@dataclasses.dataclass(frozen=True)
class _Pair:
    """An image and its mask; the key is the image's path without suffix."""

    key: str
    image: pathlib.Path
    mask: pathlib.Path


class FolderImages:
    """A public data set on disk; see `base.DataSet`.

    Every image is known to have a mask once this is made; files are read by `example`.

    Args:
      name: of the layout, like "camo".
      settings: seed, sizes of splits, and `FolderOptions`.

    Raises:
      MissingDataError: it is not there; the message says how to get it.
      BadInputError: an image has no mask, a part has no images, or fewer than asked.
    """

    def __init__(self, name: str, settings: TaskSettings):
        if name not in LAYOUTS:
            raise BadInputError(
                f"There is no data set {name!r}; known are {', '.join(LAYOUTS)}."
            )
        self.name, layout = name, LAYOUTS[name]
        options = parse_section(
            f"task_settings.{name}", settings.options, FolderOptions
        )
        self.measure = layout.measure
        self.prompt: PromptKind = options.prompt or layout.prompt
        parts = _find(name, layout, options.data)
        self._pairs = {f"{name}/{p.key}": p for part in parts.values() for p in part}
        self._splits = _cut(name, layout, parts, settings)
        # Contents may be gigabytes: names and sizes stand for them.
        files = [
            (key, pair.image.stat().st_size, pair.mask.stat().st_size)
            for key, pair in sorted(self._pairs.items())
        ]
        splits = {str(split): ids for split, ids in self._splits.items()}
        text = json.dumps([files, splits, self.prompt, self.measure])
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def ids(self, split: Split) -> Sequence[str]:
        """The ids of one split, "NAME/PATH OF THE IMAGE"."""
        return self._splits[split]

    def example(self, id: str) -> Example:
        """Reads one image, uint8 [h, w, 3], and its mask.

        Raises:
          BadInputError: there is no such example, its files are damaged, or their
            sizes differ.
        """
        if id not in self._pairs:
            raise BadInputError(f"The data set {self.name} has no example {id!r}.")
        return Example(*read_pair(self._pairs[id].image, self._pairs[id].mask))


def _find(
    name: str, layout: Layout, data: str | None
) -> dict[PartName, tuple[_Pair, ...]]:
    """All pairs of each part that is there."""
    key = f"task_settings.{name}.data"
    if data is None:
        raise MissingDataError(
            f"{key}: expected the folder of {layout.title}; get it with: {layout.how}"
        )
    for root in (pathlib.Path(data, folder) for folder in ("", *layout.roots)):
        if (root / "train.csv").is_file():
            return _listed(root, layout)
        for arrangement in layout.arrangements:
            if (root / arrangement["train"].images).is_dir():
                return _arranged(root, arrangement)
    wanted = layout.arrangements[0]["train"].images
    raise MissingDataError(
        f"{key}: expected the folder {wanted} of {layout.title}, or lists with "
        f"train.csv, in {data} but neither is there; get it with: {layout.how}"
    )


def _arranged(
    root: pathlib.Path, parts: Mapping[PartName, Part]
) -> dict[PartName, tuple[_Pair, ...]]:
    """The pairs of official parts, or of lists of names where there are any."""
    found = {name: _paired(root, part) for name, part in parts.items()}
    names = {
        part: list(filter(None, map(str.strip, _text(file).splitlines())))
        for part, stem in _LISTS.items()
        if (file := root / f"{stem}.txt").is_file()
    }
    if "train" not in names:
        return _disjoint(root, found)
    known = {p.image.stem: p for pairs in found.values() for p in pairs}
    chosen = {}
    for part, lines in names.items():
        file = root / f"{_LISTS[part]}.txt"
        stems = [
            pathlib.PurePath(line).stem if line.lower().endswith(_IMAGES) else line
            for line in lines
        ]
        if unknown := [stem for stem in stems if stem not in known]:
            raise BadInputError(f"{file} names {unknown[0]}, which is no image there.")
        chosen[part] = tuple(known[stem] for stem in stems)
    return _disjoint(root, chosen)


def _paired(root: pathlib.Path, part: Part) -> tuple[_Pair, ...]:
    """The images of one folder with their masks."""
    folder = root / part.images
    if not folder.is_dir():
        raise MissingDataError(
            f"{folder} is missing, though others of its data set are there."
        )
    images = [p for p in _files(folder) if fnmatch.fnmatchcase(p.stem, part.only)]
    if not images:
        raise BadInputError(
            f"{folder} has no images {part.only} that end in {', '.join(_IMAGES)}."
        )
    there = [root / m for m in part.masks if (root / m).is_dir()]
    if not there:
        raise MissingDataError(f"{root / part.masks[-1]} is missing: it has the masks.")
    masks = {p.stem: p for p in _files(there[0])}
    pairs = []
    for image in images:
        stem = part.mask_name.format(image.stem)
        if stem not in masks:
            raise BadInputError(
                f"{image} has no mask: expected {there[0] / stem} with one of the "
                f"endings {', '.join(_IMAGES)}."
            )
        key = image.relative_to(root).with_suffix("").as_posix()
        pairs.append(_Pair(key, image, masks[stem]))
    return tuple(pairs)


def _listed(root: pathlib.Path, layout: Layout) -> dict[PartName, tuple[_Pair, ...]]:
    """The pairs of `train.csv`, `val.csv` and the test list."""
    files = {part: f"{stem}.csv" for part, stem in _LISTS.items()}
    files["test"] = layout.test_list
    parts = {
        part: _read_list(root, root / file)
        for part, file in files.items()
        if (root / file).is_file()
    }
    return _disjoint(root, parts)


def _read_list(root: pathlib.Path, file: pathlib.Path) -> tuple[_Pair, ...]:
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, ValueError, csv.Error) as err:
        raise BadInputError(f"{file} cannot be read ({reason(err)}).") from err
    if not rows:
        raise BadInputError(f"{file} has no images.")
    pairs = []
    for number, row in enumerate(rows, 2):
        if not row.get("image") or not row.get("label"):
            raise BadInputError(
                f"{file}, line {number}: expected the columns image and label."
            )
        image, mask = root / row["image"], root / row["label"]
        for path in (image, mask):
            if not path.is_file():
                raise BadInputError(
                    f"{file}, line {number} names {path}, which does not exist."
                )
        pairs.append(_Pair(os.path.splitext(row["image"])[0], image, mask))
    return tuple(pairs)


def _disjoint(
    root: pathlib.Path, parts: dict[PartName, tuple[_Pair, ...]]
) -> dict[PartName, tuple[_Pair, ...]]:
    """The parts, if no image is there twice."""
    seen: dict[str, str] = {}
    for part, pairs in parts.items():
        for pair in pairs:
            if pair.key in seen:
                raise BadInputError(
                    f"{root}: {pair.key} is an image of {seen[pair.key]} and another "
                    f"of {part}; keep one."
                )
            seen[pair.key] = part
    return parts


def _cut(
    name: str,
    layout: Layout,
    parts: Mapping[PartName, Sequence[_Pair]],
    settings: TaskSettings,
) -> dict[Split, tuple[str, ...]]:
    """Fills every split from its official part, or else from the training part."""
    asked: dict[PartName, dict[Split, int]] = {part: {} for part in parts}
    for split in _ORDER:
        source = _SOURCES.get(split, "train")
        asked[source if source in parts else "train"][split] = settings.sizes.get(
            split, 0
        )
    splits: dict[Split, tuple[str, ...]] = {}
    for part, sizes in asked.items():
        ids = [f"{name}/{pair.key}" for pair in parts[part]]
        cut = seeded_splits(
            f"{name}, part {part},", dict.fromkeys(ids, ""), sizes, settings.seed
        )
        if layout.frames:
            ends = iter(ids)
            cut = {s: tuple(next(ends) for _ in cut[s]) for s in _ORDER}
        splits |= {split: cut[split] for split in sizes}
    return splits


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The images of a folder, 2 before 10; hidden files are none."""
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _IMAGES and not path.name.startswith(".")
    ]
    return sorted(found, key=lambda p: _natural(p.name))


def _text(file: pathlib.Path) -> str:
    try:
        return file.read_text("utf-8-sig", "replace")
    except OSError as err:
        raise BadInputError(f"{file} cannot be read ({reason(err)}).") from err


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.findall(r"\d{1,18}|\D+|\d+", name)
    return [(int(p), "") if p.isdecimal() else (0, p) for p in parts]
