"""Writes LoRA adapters in PEFT's folder format."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import EMBEDDING, HEAD
from cycleqd_jax.models.families import read_config, read_segmentation_config
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.formats.hf_folder import new_folder
from cycleqd_jax.models.formats.peft import CONFIG, PREFIX, WEIGHTS, LoraFactor
from cycleqd_jax.models.formats.peft_config import AdapterConfig, is_table


def save_lora(
    folder: str | os.PathLike[str],
    factors: Mapping[str, LoraFactor],
    *,
    base_name: str,
    card: str,
    dtype: Any = "float32",
    segmentation: bool = False,
) -> None:
    """Writes a PEFT LoRA folder: config, safetensors weights and a model card.

    The same arguments give the same bytes.

    Args:
      folder: created if needed; its adapter files are replaced.
      factors: by weight name, as in `Adapter`; at least one.
      base_name: the base model's path or hub name `org/name@revision`, for PEFT to
        find it.
      card: `README.md`, Markdown; a header is added unless it has one.
      dtype: what A and B are stored as; scales are exact.
      segmentation: whether the base is a segmentation model, not a language model.

    Raises:
      BadInputError: if there are no factors, one has mismatched shapes or a name that
        is not a matrix, or the dtype is not floating.
      OSError: if a file cannot be written.
    """
    stored = safetensors.check_dtype(dtype)
    folder = pathlib.Path(folder)
    tensors: dict[str, np.ndarray] = {}
    for name, factor in factors.items():
        b, a = np.asarray(factor.b), np.asarray(factor.a)
        if not name.endswith(".weight") or b.ndim != 2 or a.ndim != 2:
            raise BadInputError(f"LoRA factor {name!r}: expected matrices B and A")
        if is_table(name.removesuffix(".weight")):
            raise BadInputError(
                f"LoRA factor {name!r}: PEFT does not apply adapters to this table; "
                "export the whole model"
            )
        if b.shape[1] != a.shape[0]:
            raise BadInputError(
                f"LoRA factor {name!r}: B {b.shape} and A {a.shape} differ in rank"
            )
        if name == EMBEDDING:
            pair = {".lora_embedding_A": b.T, ".lora_embedding_B": a.T}
        else:
            pair = {".lora_A.weight": a, ".lora_B.weight": b}
        for suffix, array in pair.items():
            key = f"{PREFIX}{name.removesuffix('.weight')}{suffix}"
            tensors[key] = array.astype(stored)
    settings = AdapterConfig.describing(
        {
            name.removesuffix(".weight"): (np.asarray(f.a).shape[0], float(f.scale))
            for name, f in factors.items()
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.write_file(folder / WEIGHTS, tensors)
    data = settings.to_json(base_name, None if segmentation else "CAUSAL_LM")
    text = json.dumps(data, indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    base = json.dumps(data["base_model_name_or_path"])
    pipeline = "mask-generation" if segmentation else "text-generation"
    header = (
        f"---\nbase_model: {base}\nlibrary_name: peft\n"
        f"pipeline_tag: {pipeline}\ntags:\n- lora\n- cycleqd\n---\n\n"
    )
    text = card if card.startswith("---") else header + card.strip()
    (folder / "README.md").write_text(text.rstrip() + "\n", encoding="utf-8")


def export_adapter(
    folder: str | os.PathLike[str],
    factors: Mapping[str, LoraFactor],
    base_folder: str | os.PathLike[str],
    *,
    card: str = "",
    base_name: str | None = None,
    segmentation: bool = False,
) -> None:
    """Writes an adapter into a new folder, checked against its base model.

    By default the base is named by its absolute path: the adapter belongs to exactly
    those weights, which for a quantised source are not the ones on the hub.

    Args:
      folder: must not exist or be empty; it is written whole or not at all.
      factors: `scale * b @ a` by weight name.
      base_folder: the base's Hugging Face folder, such as one of `export_model`.
      card: as for `save_lora`.
      base_name: another name for the base: its hub name `org/name@revision`.
      segmentation: as for `save_lora`.

    Raises:
      BadInputError: if the folder is not empty, the base is not a model folder, or a
        factor does not fit it or cannot be an adapter (a tied embedding's).
      OSError: if it cannot be written.
    """
    base = pathlib.Path(base_folder).resolve()
    read = read_segmentation_config if segmentation else read_config
    shapes = read(base).weight_shapes()
    for name, factor in factors.items():
        shape = (factor.b.shape[0], factor.a.shape[1])
        if shapes.get(name) != shape:
            raise BadInputError(
                f"export: the factors of {name!r} make a matrix {shape}, but the base "
                f"{base} has {shapes.get(name)}"
            )
        if name == EMBEDDING and HEAD not in shapes:
            raise BadInputError(
                f"export: the adapter would change {name!r}, which is also the output "
                "head (tied); such adapters can be read but not written; export the "
                "whole model"
            )
    name = os.fspath(base) if base_name is None else base_name
    with new_folder(folder) as scratch:
        save_lora(
            scratch, factors, base_name=name, card=card, segmentation=segmentation
        )
