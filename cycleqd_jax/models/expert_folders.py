"""The folders of experts, of base models of any kind; weights are not read."""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import WeightsConfig
from cycleqd_jax.models.experts import Expert, FullExpert, LoraExpert
from cycleqd_jax.models.families import is_segmentation
from cycleqd_jax.models.formats import hf_folder, peft
from cycleqd_jax.models.joining import join
from cycleqd_jax.models.own_experts import Base, open_own
from cycleqd_jax.models.segmentation import SegmentationConfig
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.models.vocabulary import Vocabulary


def open_expert(folder: pathlib.Path, base: Base) -> Expert:
    """An expert of a base model of which only sizes need be known.

    Without the base's weights and tokens, names and shapes of the expert are right;
    rows that are not shared may not be.

    Raises:
      BadInputError: as for `load_expert`, as far as it is seen without them.
    """
    check_expert_folder(folder)
    if is_segmentation(base.own.model_type):
        return open_segmentation_expert(folder, base.own)
    return open_own(folder, base.own).fitted(base)


def open_experts(
    config: WeightsConfig,
    tokenizer: ChatTokenizer | None,
    folders: Sequence[pathlib.Path | None],
    vocabulary: Vocabulary,
) -> tuple[Base, tuple[Expert | None, ...]]:
    """A run's experts, and the sizes that they and their base model have in common.

    Args:
      config: the base's own.
      tokenizer: the base's, for the vocabulary "union"; without it no tokens are added.
      folders: of the experts; None for one that is not here.
      vocabulary: "base" or "union".

    Returns:
      The base's sizes, and the experts as from `open_expert`; None where one is not
      here.

    Raises:
      BadInputError: as for `open_expert`.
    """
    for folder in filter(None, folders):
        check_expert_folder(folder)
    if is_segmentation(config.model_type):
        base = Base(config, config)
        return base, tuple(folder and open_expert(folder, base) for folder in folders)
    own = [folder and open_own(folder, config) for folder in folders]
    joined = join(config, tokenizer, list(filter(None, own)), vocabulary)
    base = Base(joined.config, config)
    return base, tuple(expert and expert.fitted(base) for expert in own)


def open_segmentation_expert(
    folder: pathlib.Path,
    config: SegmentationConfig,
    base_weights: Mapping[str, np.ndarray] | None = None,
) -> Expert:
    """An expert of a segmentation model; see `load_expert`.

    Args:
      folder: a PEFT LoRA folder or that of a `SamModel`.
      config: the base model's.
      base_weights: the base model's; without them copies of base weights in an adapter
        are not compared.

    Raises:
      BadInputError: as for `load_expert`.
    """
    check_expert_folder(folder)
    if (folder / peft.CONFIG).exists():
        adapter = peft.read_adapter(folder, config)
        if base_weights is not None:
            peft.check_copies(adapter, base_weights, None, folder / peft.WEIGHTS)
        return LoraExpert(adapter.factors, adapter.replacements)
    own, weights = hf_folder.open_segmentation_model(folder)
    of_base = dict(_flat(config.to_hf()))
    for name, value in _flat(own.to_hf()):
        if value != of_base.get(name):
            raise BadInputError(
                f"expert {folder}: its {name} is {value}, but the base's is "
                f"{of_base.get(name)}; experts must be fine-tunes of one base"
            )
    return FullExpert(weights)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a nested `config.json` by dotted name."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def check_expert_folder(folder: pathlib.Path) -> None:
    """Refuses what is no folder of an adapter or a model.

    Raises:
      BadInputError: says what is there.
    """
    if not os.path.isdir(folder):  # False where a name is too long
        found = "is a file" if os.path.exists(folder) else "no such folder"
        raise BadInputError(
            f"expert {os.fspath(folder)!r}: {found}; expected the folder of a PEFT "
            "adapter or a full model"
        )
    if not any((folder / name).exists() for name in (peft.CONFIG, "config.json")):
        missing = f"has neither {peft.CONFIG} nor config.json"
        raise BadInputError(f"expert {folder}: {missing}{_inside(folder)}")


def _inside(folder: pathlib.Path) -> str:
    """Says which sub-folders hold a model or adapter, as training leaves them."""
    names = (peft.CONFIG, "config.json")
    found = {path.parent.name for n in names for path in folder.glob(f"*/{n}")}
    return f"; pass one of its folders: {', '.join(sorted(found))}" if found else ""
