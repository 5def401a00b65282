"""Models out: Hugging Face folders and PEFT adapters.

A folder is written beside its place and renamed into it, so it is whole or absent.
"""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats import peft, safetensors
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.tokenizer import ChatTokenizer

MAX_SHARD_BYTES = 5_000_000_000


def export_model(
    folder: str | os.PathLike[str],
    config: LlamaConfig,
    weights: Mapping[str, Any],
    tokenizer: ChatTokenizer,
    card: str,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a folder that `AutoModelForCausalLM` and `AutoTokenizer` load.

    The same arguments give the same bytes.

    Args:
      folder: must not exist or be empty.
      config: the model's.
      weights: exactly `config.weight_shapes()`, NumPy or JAX arrays of one floating
        dtype, which is stored.
      tokenizer: its tokeniser.
      card: `README.md`; a header is put in front unless it begins with one.
      max_shard_bytes: weights larger than this are split into several files with an
        index; one tensor is never split.

    Raises:
      BadInputError: if the folder is not empty or the weights do not fit the config.
      OSError: if it cannot be written.
    """
    arrays = safetensors.check_weights(weights, config, None, source="export")
    dtypes = {np.dtype(array.dtype).name for array in arrays.values()}
    if len(dtypes) != 1:
        raise BadInputError(
            f"export: all weights must have one dtype, got {sorted(dtypes)}"
        )
    dtype = dtypes.pop()
    ids = {"eos_token_id": _one_or_list(tokenizer.stop_ids)}
    ids["pad_token_id"] = tokenizer.pad_id
    if tokenizer.bos_id is not None:
        ids["bos_token_id"] = tokenizer.bos_id
    with _new_folder(folder) as scratch:
        _write_shards(scratch, arrays, max_shard_bytes)
        _write_json(
            scratch / "config.json",
            config.to_hf() | ids | {"dtype": dtype, "torch_dtype": dtype},
        )
        _write_json(scratch / "generation_config.json", ids | {"do_sample": False})
        tokenizer.save(scratch)
        header = (
            "---\nlibrary_name: transformers\npipeline_tag: text-generation\n"
            "tags:\n- merge\n- cycleqd\n---\n\n"
        )
        if not card.startswith("---"):
            card = header + card
        (scratch / "README.md").write_text(card.rstrip() + "\n", encoding="utf-8")


def export_adapter(
    folder: str | os.PathLike[str],
    factors: Mapping[str, peft.LoraFactor],
    base_folder: str | os.PathLike[str],
    *,
    card: str = "",
    dtype: Any = "float32",
    base_name: str | None = None,
) -> None:
    """Writes a PEFT adapter of a base model.

    By default the base is named by its absolute path: the adapter belongs to exactly
    those weights, which for a quantised source are not the ones on the hub.

    Args:
      folder: must not exist or be empty.
      factors: `scale * b @ a` by weight name.
      base_folder: the base's Hugging Face folder, such as one of `export_model`.
      card: body of `README.md`.
      dtype: what the factors are stored as.
      base_name: what to call the base instead: its hub name `org/name@revision`.

    Raises:
      BadInputError: if the folder is not empty, the base is not a model folder, or a
        factor does not fit it or cannot be an adapter (a tied embedding's).
      OSError: if it cannot be written.
    """
    base = pathlib.Path(base_folder).resolve()
    path = base / "config.json"
    config = LlamaConfig.from_hf(safetensors.read_json(path), source=str(path))
    shapes = config.weight_shapes()
    for name, factor in factors.items():
        shape = (factor.b.shape[0], factor.a.shape[1])
        if shapes.get(name) != shape:
            raise BadInputError(
                f"export: the factors of {name!r} make a matrix {shape}, but the base "
                f"{base} has {shapes.get(name)}"
            )
        if name == "model.embed_tokens.weight" and config.tie_word_embeddings:
            raise BadInputError(
                f"export: {name!r} changes and is also the head (tied), which a PEFT "
                "adapter cannot say; export the whole model"
            )
    with _new_folder(folder) as scratch:
        name = os.fspath(base) if base_name is None else base_name
        peft.save_lora(scratch, factors, base_name=name, card=card, dtype=dtype)


@contextlib.contextmanager
def _new_folder(folder: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A scratch folder that becomes `folder` if the body succeeds."""
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
        # on POSIX a rename replaces an empty folder and refuses one that is not
        os.rename(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_shards(
    folder: pathlib.Path, arrays: Mapping[str, Any], max_shard_bytes: int
) -> None:
    shards: list[list[str]] = [[]]
    size = 0
    for name, array in arrays.items():
        if shards[-1] and size + array.nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += array.nbytes
    if len(shards) == 1:
        safetensors.write_safetensors(folder / safetensors.WEIGHTS, arrays)
        return
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        safetensors.write_safetensors(
            folder / file_name, {name: arrays[name] for name in names}
        )
        places |= dict.fromkeys(names, file_name)
    total = sum(array.nbytes for array in arrays.values())
    _write_json(
        folder / safetensors.INDEX,
        {"metadata": {"total_size": total}, "weight_map": places},
    )


def _write_json(path: pathlib.Path, data: Mapping[str, Any]) -> None:
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _one_or_list(ids: tuple[int, ...]) -> int | list[int]:
    return ids[0] if len(ids) == 1 else list(ids)
