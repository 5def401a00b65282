"""A tokeniser from the vocabulary inside a GGUF file, built by `transformers`."""

from collections.abc import Mapping
from typing import Any

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.tokenizer import ChatTokenizer

# Values of `tokenizer.ggml.pre` that split text as GPT-2 does. SmolLM2 was published
# with a tokeniser that also isolates every digit, which changes only runs of two or
# more blanks before a digit ("  1"); transformers ignores this for GGUF files.
_GPT2_SPLITS = ("gpt-2", "smollm")
_SPECIAL_TOKENS = {
    "bos_token": "ggml.bos_token_id",
    "eos_token": "ggml.eos_token_id",
    "unk_token": "ggml.unknown_token_id",
    "pad_token": "ggml.padding_token_id",
}


def tokenizer_from_metadata(metadata: Mapping[str, Any], source: str) -> ChatTokenizer:
    """Builds the tokeniser that a GGUF file describes, with its chat template.

    Args:
      metadata: the file's fields; those under `tokenizer.` are used.
      source: what error messages begin with.

    Raises:
      BadInputError: if the kind of vocabulary or pre-tokeniser is not supported, or a
        field is missing or out of range.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf import gguf_tokenizer_mapping as mapping

    fields = {
        name.removeprefix("tokenizer."): value
        for name, value in metadata.items()
        if name.startswith("tokenizer.")
    }
    kind, split = fields.get("ggml.model"), fields.get("ggml.pre")
    if kind not in ("gpt2", "llama"):
        raise BadInputError(
            f"{source}: tokenizer.ggml.model {kind!r} is not supported; expected "
            "'gpt2' (byte-level BPE) or 'llama' (SentencePiece)"
        )
    splits = (*_GPT2_SPLITS, *mapping.GGUF_PRE_TOKENIZER_SPLITS)
    if kind == "gpt2" and split not in splits:
        raise BadInputError(
            f"{source}: tokenizer.ggml.pre {split!r} is not supported; supported: "
            f"{', '.join(splits)}; use the model's Hugging Face folder instead"
        )
    tokens = fields.get("ggml.tokens")
    if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
        raise BadInputError(f"{source}: tokenizer.ggml.tokens is not a list of tokens")
    if len(set(tokens)) != len(tokens):
        raise BadInputError(f"{source}: tokenizer.ggml.tokens holds a token twice")
    if "ggml.merges" not in fields and (kind == "gpt2" or "ggml.scores" not in fields):
        raise BadInputError(f"{source}: lacks tokenizer.ggml.merges")
    names = mapping.GGUF_TOKENIZER_MAPPING["tokenizer"]
    described = {names[key]: value for key, value in fields.items() if key in names}
    architecture = metadata.get("general.architecture")
    try:
        if kind == "llama":
            plain = mapping.sentencepiece_tokenizer(described)
        else:  # transformers' own class would add <|endoftext|> to the vocabulary
            plain = PreTrainedTokenizerFast(
                tokenizer_object=_byte_level(tokens, mapping.get_merges(described))
            )
        plain = mapping.add_gguf_special_tokens(plain, described)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=mapping.set_split_regex(
                plain, described
            ).backend_tokenizer,
            chat_template=fields.get("chat_template"),
            # llama.cpp adds BOS to a SentencePiece vocabulary without this field.
            add_bos_token=bool(fields.get("ggml.add_bos_token", kind == "llama")),
            add_eos_token=bool(fields.get("ggml.add_eos_token", False)),
            clean_up_tokenization_spaces=False,
            model_max_length=metadata.get(f"{architecture}.context_length", 2048),
            **{
                name: _token(tokens, fields.get(key))
                for name, key in _SPECIAL_TOKENS.items()
            },
        )
    except Exception as err:  # tokenizers raises plain Exception for a bad vocabulary
        raise BadInputError(
            f"{source}: its vocabulary is damaged: {type(err).__name__}: {err}"
        ) from err
    return ChatTokenizer(tokenizer)


def _byte_level(tokens: list[str], merges: list[tuple[str, ...]]):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _token(tokens: list[str], index: int | None) -> str | None:
    if index is None:
        return None
    if not 0 <= index < len(tokens):
        raise IndexError(f"token id {index}, but there are {len(tokens)} tokens")
    return tokens[index]
