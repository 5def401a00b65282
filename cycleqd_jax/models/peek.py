"""Sizes of models and experts without loading their weights, or having them at all.

Only small files are read, and the network is never asked.
"""

import pathlib
from typing import NamedTuple

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.models.families import known_checkpoint, read_config
from cycleqd_jax.models.formats import gguf, peft
from cycleqd_jax.models.locate import find_here


class ModelPeek(NamedTuple):
    """A base model from outside.

    Attributes:
      config: its sizes and constants.
      sizes_of: None if the weights are here, else the checkpoint or file that the
        sizes come from.
    """

    config: ModelConfig
    sizes_of: str | None


class ExpertPeek(NamedTuple):
    """An expert from outside.

    Attributes:
      adapter: its content, if it is one; None for a full fine-tune.
      loaded_bytes: size of its weights in memory.
    """

    adapter: peft.Adapter | None
    loaded_bytes: int


def peek_model(source: str) -> ModelPeek:
    """Reads a base model's sizes.

    Args:
      source: as for `loading.load_model`.

    Raises:
      BadInputError: it is damaged, or neither here nor well known.
    """
    path = find_here(source)
    if path is not None and path.is_file():
        return ModelPeek(gguf.read_gguf_config(path), None)
    if path is not None and (path / "config.json").is_file():
        sizes_of = None if _weight_files(path) else str(path / "config.json")
        return ModelPeek(read_config(path), sizes_of)
    known = known_checkpoint(source)
    if path is not None or known is None:
        raise BadInputError(
            f"base model {source!r}: is not here, and its sizes are not known; "
            "download it, or pass a folder with its config.json"
        )
    return ModelPeek(known.config, known.name)


def peek_expert(source: str, config: ModelConfig) -> ExpertPeek | None:
    """Reads what kind of expert this is, and its size.

    Args:
      source: a folder or a hub name.
      config: the base model's.

    Returns:
      None for a hub name whose weights are not here.

    Raises:
      BadInputError: it is damaged, does not fit the base, or there is no such folder.
    """
    path = find_here(source, what="expert")
    if path is None:
        return None
    if (path / peft.CONFIG).is_file():
        adapter = peft.read_adapter(path, config)
        arrays = [*adapter.replacements.values()]
        arrays += [half for f in adapter.factors.values() for half in (f.b, f.a)]
        return ExpertPeek(adapter, sum(array.nbytes for array in arrays))
    # Full weights stay in their stored dtypes.
    size = sum(file.stat().st_size for file in _weight_files(path))
    return ExpertPeek(None, size) if size else None


def _weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return list(folder.glob("*.safetensors"))
