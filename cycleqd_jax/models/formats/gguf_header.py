"""The fields of a GGUF file besides its weights: those of a file, or of any model.

A file's own header is copied, so that nothing has to be guessed. For a Hugging Face
model the fields are those that llama.cpp's converter writes.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.models.families import family_named
from cycleqd_jax.models.formats.gguf import GGUFLayout, gguf_layout, layout_of
from cycleqd_jax.models.formats.gguf_file import open_gguf, open_reader
from cycleqd_jax.models.formats.gguf_rope import FREQUENCIES, add_rope
from cycleqd_jax.models.formats.gguf_vocabulary import add_vocabulary
from cycleqd_jax.models.tokenizer import ChatTokenizer

# What the writer writes itself, or what is not so in the new file.
_NOT_COPIED = ("GGUF.", "split.", "general.architecture", "general.file_type")
_VERSION = "general.quantization_version"
# Settings with which llama.cpp does not read an architecture.
_UNREAD: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], bool]]] = {
    "qwen2": (
        "head_dim other than hidden_size / num_attention_heads",
        lambda s: s["head_dim"] * s["num_attention_heads"] != s["hidden_size"],
    ),
    "qwen3": ("attention_bias = true", lambda s: s["attention_bias"]),
}


class GGUFHeader(NamedTuple):
    """A GGUF file without its weights.

    Attributes:
      source: what it was made from, for messages.
      fields: `gguf.GGUFValue` by name, without those that a writer adds.
      layout: names and order of the weights.
      divisors: the tensor `FREQUENCIES`, float32 `[head_dim // 2]`; None without one.
    """

    source: str
    fields: dict[str, Any]
    layout: GGUFLayout
    divisors: np.ndarray | None


def header_of_file(path: str | os.PathLike[str]) -> GGUFHeader:
    """The header of a GGUF file, or of one part of it; errors as for `read_gguf`."""
    import gguf

    layout, (_, tensors) = gguf_layout(path), open_gguf(path)
    fields = {}
    for name, field in open_reader(path).fields.items():
        if not name.startswith(_NOT_COPIED) and name != _VERSION:
            inner = field.types[1] if len(field.types) > 1 else None
            fields[name] = gguf.GGUFValue(field.contents(), field.types[0], inner)
    divisors = tensors.get(FREQUENCIES)
    if divisors is not None:
        divisors = np.asarray(divisors.data, np.float32)
    return GGUFHeader(os.fspath(path), fields, layout, divisors)


def header_of_model(config: ModelConfig, tokenizer: ChatTokenizer) -> GGUFHeader:
    """The header for a model of any family.

    A sliding window cannot be said for these architectures; the context is then at most
    the window, within which it changes nothing.

    Args:
      config: the model's.
      tokenizer: its tokeniser.

    Raises:
      BadInputError: a GGUF file cannot hold such a model or tokeniser, or llama.cpp
        computes it otherwise; says why.
    """
    import gguf

    family = family_named(config.model_type, "GGUF file")
    settings = config.to_hf()
    architecture = family.gguf_architecture
    if architecture is None:
        raise BadInputError(
            f"GGUF file: a {config.model_type} has no name there; export the folder "
            "without a GGUF file."
        )
    if architecture in _UNREAD and _UNREAD[architecture][1](settings):
        raise BadInputError(
            f"GGUF file: a {config.model_type} with {_UNREAD[architecture][0]} is none "
            "that llama.cpp reads; export the folder without a GGUF file."
        )
    longest = config.max_position_embeddings
    writer = gguf.GGUFWriter(None, architecture)
    writer.add_type("model")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(min(longest, settings.get("sliding_window") or longest))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(settings["rms_norm_eps"])
    divisors = add_rope(writer, settings)
    add_vocabulary(writer, tokenizer, config.vocab_size)
    fields = {n: f for n, f in writer.kv_data[0].items() if n not in _NOT_COPIED}
    return GGUFHeader("the base model", fields, layout_of(family, config), divisors)
