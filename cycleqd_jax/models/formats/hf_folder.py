"""Hugging Face model folders, in and out: config, weights and tokeniser."""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import ModelConfig, WeightsConfig
from cycleqd_jax.models.families import read_config, read_segmentation_config
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.segmentation import SegmentationConfig
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.models.validated import read_object

MAX_SHARD_BYTES = 5_000_000_000
_CARD_HEADER = """---
library_name: transformers
pipeline_tag: {pipeline}
tags:
- merge
- cycleqd
---

"""


def open_model(
    folder: str | os.PathLike[str],
) -> tuple[ModelConfig, safetensors.StoredWeights]:
    """Opens config and weights of a folder, checked against each other.

    Args:
      folder: holds `config.json` and safetensors weights.

    Returns:
      The config, and exactly the weights of `config.weight_shapes()`, in its order;
      they are read when asked for.

    Raises:
      BadInputError: naming the file, setting or weight that is wrong.
    """
    config = read_config(folder)
    return config, _open_weights(folder, config)


def open_segmentation_model(
    folder: str | os.PathLike[str],
) -> tuple[SegmentationConfig, safetensors.StoredWeights]:
    """As `open_model`, for a segmentation model."""
    config = read_segmentation_config(folder)
    return config, _open_weights(folder, config)


def read_tokenizer(folder: str | os.PathLike[str]) -> ChatTokenizer:
    """Reads the tokeniser of a folder, without torch.

    Args:
      folder: holds `tokenizer.json`, `tokenizer_config.json` and perhaps
        `chat_template.jinja` and `generation_config.json`.

    Raises:
      BadInputError: naming the file that is missing or damaged.
    """
    return ChatTokenizer(read_fast_tokenizer(folder), eos_ids=_eos_ids(folder))


def read_fast_tokenizer(folder: str | os.PathLike[str]) -> Any:
    """The `transformers.PreTrainedTokenizerFast` of a model's or adapter's folder.

    Errors as for `read_tokenizer`.
    """
    from transformers import PreTrainedTokenizerFast

    folder = pathlib.Path(folder)
    if not (folder / "tokenizer.json").exists():
        raise BadInputError(
            f"{folder}: has no tokenizer.json; save the tokeniser with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).exists():
            read_object(folder / name)
    try:
        return PreTrainedTokenizerFast.from_pretrained(
            str(folder), local_files_only=True
        )
    except Exception as err:  # tokenizers raises plain Exception for damaged files
        raise BadInputError(
            f"{folder}: its tokeniser cannot be read: {type(err).__name__}: {err}"
        ) from err


def export_model(
    folder: str | os.PathLike[str],
    config: ModelConfig,
    weights: Mapping[str, Any],
    tokenizer: ChatTokenizer,
    card: str,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a folder that `AutoModelForCausalLM` and `AutoTokenizer` load.

    The same arguments give the same bytes.

    Args:
      folder: must not exist or be empty; it is written whole or not at all.
      config: the model's.
      weights: exactly `config.weight_shapes()`, NumPy or JAX arrays of one floating
        dtype, which is stored.
      tokenizer: its tokeniser.
      card: `README.md`; a header is added unless it has one.
      max_shard_bytes: weights larger than this are split into several files with an
        index; one tensor is never split.

    Raises:
      BadInputError: if the folder is not empty or the weights do not fit the config.
      OSError: if it cannot be written.
    """
    stops = tokenizer.stop_ids
    ids = {
        "eos_token_id": stops[0] if len(stops) == 1 else list(stops),
        "pad_token_id": tokenizer.pad_id,
    }
    if tokenizer.bos_id is not None:
        ids["bos_token_id"] = tokenizer.bos_id
    settings = config.to_hf() | ids | _dtype_settings(config, weights)
    arrays = {name: weights[name] for name in config.weight_shapes()}
    with new_folder(folder) as scratch:
        _write_shards(scratch, arrays, max_shard_bytes)
        _write_json(scratch / "config.json", settings)
        _write_json(scratch / "generation_config.json", ids | {"do_sample": False})
        tokenizer.save(scratch)
        _write_card(scratch, card, "text-generation")


def export_segmentation_model(
    folder: str | os.PathLike[str],
    config: SegmentationConfig,
    weights: Mapping[str, Any],
    card: str,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a folder that `AutoModel` loads; arguments and errors as `export_model`.

    It has no image processor: that of the base model belongs to it.
    """
    settings = config.to_hf() | _dtype_settings(config, weights)
    arrays = {name: weights[name] for name in config.weight_shapes()}
    with new_folder(folder) as scratch:
        _write_shards(scratch, arrays, max_shard_bytes)
        _write_json(scratch / "config.json", settings)
        _write_card(scratch, card, "mask-generation")


@contextlib.contextmanager
def new_folder(folder: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A scratch folder beside `folder`, renamed to it if the body succeeds.

    Raises:
      BadInputError: `folder` exists and is not empty.
    """
    target = pathlib.Path(os.path.abspath(pathlib.Path(folder).expanduser()))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInputError(
            f"export: {folder} exists and is not an empty folder; choose another or "
            "remove it"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
        # On POSIX a rename replaces an empty folder and refuses another one.
        os.rename(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _open_weights(
    folder: str | os.PathLike[str], config: WeightsConfig
) -> safetensors.StoredWeights:
    weights = safetensors.open_folder(folder)
    safetensors.check_weights(weights, config, folder)
    return weights.only(config.weight_shapes())


def _dtype_settings(
    config: WeightsConfig, weights: Mapping[str, Any]
) -> dict[str, str]:
    """The one dtype of checked weights, in both spellings of a `config.json`."""
    safetensors.check_weights(weights, config, "export")
    dtypes = {array.dtype.name for array in weights.values()}
    if len(dtypes) != 1:
        raise BadInputError(
            f"export: all weights must have one dtype, got {sorted(dtypes)}"
        )
    dtype = dtypes.pop()
    return {"dtype": dtype, "torch_dtype": dtype}


def _write_card(folder: pathlib.Path, card: str, pipeline: str) -> None:
    header = "" if card.startswith("---") else _CARD_HEADER.format(pipeline=pipeline)
    text = (header + card).rstrip() + "\n"
    (folder / "README.md").write_text(text, encoding="utf-8")


def _write_shards(
    folder: pathlib.Path, arrays: dict[str, Any], max_shard_bytes: int
) -> None:
    from huggingface_hub import split_state_dict_into_shards_factory

    split = split_state_dict_into_shards_factory(
        arrays,
        get_storage_size=lambda array: array.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_bytes,
    )
    for file_name, names in split.filename_to_tensors.items():
        safetensors.write_file(folder / file_name, {n: arrays[n] for n in names})
    if split.is_sharded:
        places = split.tensor_to_filename
        index = {"metadata": split.metadata, "weight_map": places}
        _write_json(folder / safetensors.INDEX, index)


def _write_json(path: pathlib.Path, data: Mapping[str, Any]) -> None:
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _eos_ids(folder: str | os.PathLike[str]) -> list[int]:
    folder = pathlib.Path(folder)
    for name in ("generation_config.json", "config.json"):
        if not (folder / name).exists():
            continue
        found = read_object(folder / name).get("eos_token_id")
        ids = found if isinstance(found, list) else [] if found is None else [found]
        if not all(isinstance(i, int) and i >= 0 for i in ids):
            raise BadInputError(
                f"{folder / name}: eos_token_id must be token ids, but is {found!r}"
            )
        if ids:
            return ids
    return []
