"""A tokeniser from the vocabulary inside a GGUF file, without torch.

The result equals what `transformers` builds from the same file.
"""

from collections.abc import Mapping
from typing import Any

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.tokenizer import ChatTokenizer

_CONTROL, _USER_DEFINED = 3, 4  # llama.cpp's token types

# Llama 3's `tokenizer.json`: contractions, words, groups of up to three digits, ...
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# `tokenizer.ggml.pre` -> pattern that splits text before BPE; None is GPT-2's own.
# The tokeniser SmolLM2 was published with also isolates every digit, which changes only
# runs of two or more blanks before a digit ("  1"); transformers does not do so for a
# GGUF file, and neither do we.
_SPLITS: dict[str, str | None] = {
    "smollm": None,
    "gpt-2": None,
    "llama3": _LLAMA3_SPLIT,
    "llama-v3": _LLAMA3_SPLIT,
    "llama-bpe": _LLAMA3_SPLIT,
}


def tokenizer_from_metadata(metadata: Mapping[str, Any], source: str) -> ChatTokenizer:
    """Builds the tokeniser that a GGUF file describes.

    Args:
      metadata: the file's fields; those under `tokenizer.` are used.
      source: named in error messages.

    Returns:
      The tokeniser with its chat template.

    Raises:
      BadInputError: if the kind of vocabulary or pre-tokeniser is not one of those
        built here, or a field is missing or out of range.
    """
    from transformers import PreTrainedTokenizerFast

    tokens = metadata.get("tokenizer.ggml.tokens")
    if not _strings(tokens) or not tokens:
        raise BadInputError(f"{source}: has no tokenizer.ggml.tokens")
    if len(set(tokens)) != len(tokens):
        raise BadInputError(f"{source}: tokenizer.ggml.tokens holds a token twice")
    model = metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        backend = _byte_level(metadata, tokens, source)
    elif model == "llama":
        backend = _sentencepiece(metadata, tokens, source)
    else:
        raise BadInputError(
            f"{source}: tokenizer.ggml.model {model!r} is not supported; expected "
            "'gpt2' (byte-level BPE) or 'llama' (SentencePiece)"
        )
    _add_tokens(backend, metadata, tokens)
    named = {
        f"{name}_token": _token(metadata, key, tokens, source)
        for name, key in {
            "bos": "bos_token_id",
            "eos": "eos_token_id",
            "unk": "unknown_token_id",
            "pad": "padding_token_id",
        }.items()
    }
    # llama.cpp adds BOS to a SentencePiece vocabulary that does not say otherwise.
    adds_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", model == "llama"))
    adds_eos = bool(metadata.get("tokenizer.ggml.add_eos_token", False))
    _set_post_processor(backend, named, tokens, adds_bos, adds_eos)
    return ChatTokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=backend,
            chat_template=metadata.get("tokenizer.chat_template"),
            clean_up_tokenization_spaces=False,
            model_max_length=int(metadata.get("llama.context_length", 2048)),
            **named,
        )
    )


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], source: str):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    pre = metadata.get("tokenizer.ggml.pre")
    if pre not in _SPLITS:
        raise BadInputError(
            f"{source}: tokenizer.ggml.pre {pre!r} is not supported; known are "
            f"{', '.join(_SPLITS)}; use the model's Hugging Face folder instead"
        )
    split = _SPLITS[pre]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = metadata.get("tokenizer.ggml.merges")
    if not _strings(merges):
        raise BadInputError(f"{source}: has no tokenizer.ggml.merges")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    for pair in pairs:
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocab.keys():
            raise BadInputError(
                f"{source}: tokenizer.ggml.merges has {' '.join(pair)!r}, which is "
                "not a pair of tokens that make a token"
            )
    backend = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    byte_level = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=split is None
    )
    backend.pre_tokenizer = (
        byte_level
        if split is None
        else pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(split), behavior="isolated"), byte_level]
        )
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], source: str):
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise BadInputError(
            f"{source}: tokenizer.ggml.scores must hold one number for each of the "
            f"{len(tokens)} tokens"
        )
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = metadata.get("tokenizer.ggml.merges")
    if not _strings(merges):
        merges = generate_merges(vocab, dict(zip(tokens, scores, strict=True)))
    else:
        merges = [tuple(merge.split(" ")) for merge in merges]
    return LlamaTokenizer(vocab=vocab, merges=merges).backend_tokenizer


def _add_tokens(backend, metadata: Mapping[str, Any], tokens: list[str]) -> None:
    from tokenizers import AddedToken

    kinds = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    marked = list(zip(tokens, kinds, strict=False))
    backend.add_special_tokens(
        [
            AddedToken(t, normalized=False, special=True)
            for t, k in marked
            if k == _CONTROL
        ]
    )
    backend.add_tokens(
        [AddedToken(t, normalized=False) for t, k in marked if k == _USER_DEFINED]
    )


def _token(metadata, key: str, tokens: list[str], source: str) -> str | None:
    index = metadata.get(f"tokenizer.ggml.{key}")
    if index is None:
        return None
    if not 0 <= index < len(tokens):
        raise BadInputError(
            f"{source}: tokenizer.ggml.{key} = {index} is outside the vocabulary of "
            f"{len(tokens)} tokens"
        )
    return tokens[index]


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _set_post_processor(backend, named, tokens, adds_bos: bool, adds_eos: bool) -> None:
    """Makes `add_special_tokens=True` add what the file's flags ask for."""
    from tokenizers import processors

    bos = named["bos_token"] if adds_bos else None
    eos = named["eos_token"] if adds_eos else None
    parts = [part for part in (bos, "$A", eos) if part]
    if len(parts) == 1:
        return
    pair = [part if part[0] != "$" else "$A" for part in parts]
    pair += [f"{part}:1" for part in (bos, "$B", eos) if part]
    backend.post_processor = processors.TemplateProcessing(
        single=" ".join(parts),
        pair=" ".join(pair),
        special_tokens=[(t, tokens.index(t)) for t in (bos, eos) if t],
    )
