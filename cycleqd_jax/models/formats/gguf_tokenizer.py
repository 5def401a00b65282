"""A tokeniser from the vocabulary inside a GGUF file, as the model's own tokeniser.

A GGUF file has tokens and merges or scores, and names the rest: `tokenizer.ggml.model`
the kind of vocabulary, `tokenizer.ggml.pre` how text is split. Both are built here as
the tokenizer.json of the published models has them. Where a field is absent, the
default is llama.cpp's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cycleqd_jax.errors import BadInputError, show
from cycleqd_jax.models.formats.gguf_splits import SPLITS, Split
from cycleqd_jax.models.tokenizer import ChatTokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5  # token types
# Fields below tokenizer.ggml that are read here or change no token.
_READ = (
    *("model", "pre", "tokens", "token_type", "scores", "merges"),
    *("add_bos_token", "add_eos_token", "add_space_prefix", "token_type_count"),
)
_NOTHING = (0, "", [])
_SPECIAL_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
_ENDINGS = ("eot_token_id", "eom_token_id")  # of a turn, of a message
_SENTENCEPIECE_IDS = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
_SPACE = "\u2581"  # SentencePiece's


def tokenizer_from_metadata(metadata: Mapping[str, Any], source: str) -> ChatTokenizer:
    """Builds the tokeniser that a GGUF file describes, with its chat template.

    Args:
      metadata: the file's fields; those under `tokenizer.` are used.
      source: what error messages begin with.

    Raises:
      BadInputError: if the kind of vocabulary or pre-tokeniser is not supported, or a
        field is missing, out of range or not supported; names it.
    """
    from transformers import PreTrainedTokenizerFast

    fields = {
        name.removeprefix("tokenizer.ggml."): value
        for name, value in metadata.items()
        if name.startswith("tokenizer.ggml.")
    }
    if fields.get("model") == "llama":
        fields = _SENTENCEPIECE_IDS | fields
    own = metadata.get("tokenizer.huggingface.json")
    architecture = metadata.get("general.architecture")
    try:
        made = _parse(own) if own else _build(fields, source)
        ids = [*_SPECIAL_TOKENS.values(), *_ENDINGS]
        special = {key: _token(made.tokens, fields, key, source) for key in ids}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=made.backend,
            chat_template=metadata.get("tokenizer.chat_template"),
            clean_up_tokenization_spaces=False,
            model_max_length=metadata.get(f"{architecture}.context_length", 2048),
            **_added(made, fields, special, source),
            **{name: special[key] for name, key in _SPECIAL_TOKENS.items()},
        )
    except BadInputError:
        raise
    except Exception as err:  # tokenizers raises plain Exception for a bad vocabulary
        raise BadInputError(
            f"{source}: its vocabulary is damaged: {type(err).__name__}: {err}"
        ) from err
    return ChatTokenizer(
        tokenizer, eos_ids=[fields[key] for key in _ENDINGS if key in fields]
    )


class _Made(NamedTuple):
    """A tokeniser, its tokens by id, and whether it adds tokens by default.

    None leaves that to the tokeniser's own post-processor.
    """

    backend: Any
    tokens: Sequence[str]
    adds_bos: bool | None
    adds_eos: bool | None


def _parse(text: str) -> _Made:
    """The model's own tokenizer.json, which a file may hold whole."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(text)
    count = 1 + max(backend.get_vocab().values())
    return _Made(backend, [backend.id_to_token(i) for i in range(count)], None, None)


def _build(fields: Mapping[str, Any], source: str) -> _Made:
    split = _check(fields, source)
    tokens, kinds = _tokens(fields, source)
    if split:
        backend = _byte_level(tokens, _merges(fields), split)
    else:
        if "merges" not in fields:
            _check_scores(tokens, kinds, fields["scores"], source)
        unknown = _token(tokens, fields, "unknown_token_id", source)
        backend = _sentencepiece(fields, tokens, unknown)
    _add_special_tokens(backend, tokens, kinds)
    return _Made(backend, tokens, split.adds_bos if split else True, False)


def _added(
    made: _Made,
    fields: Mapping[str, Any],
    special: Mapping[str, str | None],
    source: str,
) -> dict[str, bool]:
    """`add_bos_token` and `add_eos_token`, as in a tokenizer_config.json."""
    found = {}
    for name, default in (("bos", made.adds_bos), ("eos", made.adds_eos)):
        key, token = f"add_{name}_token", special[f"{name}_token_id"]
        given = fields.get(key, default if token is not None else None)
        if given is None:
            continue
        if given not in (True, False):
            raise BadInputError(
                f"{source}: tokenizer.ggml.{key} = {show(given)} is neither true nor "
                "false"
            )
        if given and token is None:
            raise BadInputError(
                f"{source}: tokenizer.ggml.{key} is true, but it lacks "
                f"tokenizer.ggml.{name}_token_id"
            )
        found[key] = bool(given)
    return found


def _check(fields: Mapping[str, Any], source: str) -> Split | None:
    """The pre-tokeniser; None for SentencePiece, which has none."""
    kind, name = fields.get("model"), fields.get("pre")
    if kind not in ("gpt2", "llama"):
        raise BadInputError(
            f"{source}: tokenizer.ggml.model {kind!r} is not supported; expected "
            "'gpt2' (byte-level BPE) or 'llama' (SentencePiece)"
        )
    if kind == "gpt2" and name is None:  # llama.cpp splits as no model does, and warns
        raise BadInputError(
            f"{source}: lacks tokenizer.ggml.pre, which says how text is split; "
            "convert the model again with llama.cpp or use its Hugging Face folder"
        )
    if kind == "gpt2" and not (isinstance(name, str) and name in SPLITS):
        raise BadInputError(
            f"{source}: tokenizer.ggml.pre {name!r} is not supported; supported: "
            f"{', '.join(SPLITS)}; use the model's Hugging Face folder instead"
        )
    for key, value in fields.items():
        if key in _READ or key.endswith("_token_id"):
            continue
        if value not in _NOTHING:
            raise BadInputError(
                f"{source}: tokenizer.ggml.{key} = {show(value)} is not supported; use "
                "the model's Hugging Face folder instead"
            )
    if kind == "gpt2" and fields.get("add_space_prefix"):
        raise BadInputError(
            f"{source}: tokenizer.ggml.add_space_prefix is true, which is not "
            "supported with tokenizer.ggml.model 'gpt2'"
        )
    if "merges" not in fields and (kind == "gpt2" or "scores" not in fields):
        raise BadInputError(f"{source}: lacks tokenizer.ggml.merges")
    return SPLITS[name] if kind == "gpt2" else None


def _tokens(fields: Mapping[str, Any], source: str) -> tuple[list[str], list[int]]:
    """The tokens and their types, without those that only fill up the embedding."""
    tokens, kinds = fields.get("tokens"), fields.get("token_type")
    if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
        raise BadInputError(f"{source}: tokenizer.ggml.tokens is not a list of tokens")
    if len(set(tokens)) != len(tokens):
        raise BadInputError(f"{source}: tokenizer.ggml.tokens holds a token twice")
    for key in ("token_type", "scores"):
        values = fields.get(key, tokens)
        if not isinstance(values, list) or len(values) != len(tokens):
            raise BadInputError(
                f"{source}: tokenizer.ggml.{key} must hold one number for each of the "
                f"{len(tokens)} tokens"
            )
    if kinds is None:
        raise BadInputError(
            f"{source}: lacks tokenizer.ggml.token_type, which says which tokens are "
            "special"
        )
    count = len(tokens)
    # llama.cpp's converter gives these names to rows beyond the model's vocabulary.
    while (
        count
        and kinds[count - 1] == _UNUSED
        and tokens[count - 1] == (f"[PAD{count - 1}]")
    ):
        count -= 1
    return tokens[:count], kinds[:count]


def _check_scores(
    tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float], source: str
) -> None:
    """Refuses scores that do not say in which order pieces are merged."""
    made = [
        score
        for token, kind, score in zip(tokens, kinds, scores, strict=False)
        if kind == _NORMAL and len(token) > 1
    ]
    if len(made) > 1 and len(set(made)) == 1:
        raise BadInputError(
            f"{source}: tokenizer.ggml.scores has one value, {made[0]}, for all tokens "
            "and so does not say how text is cut; use the model's Hugging Face folder "
            "instead"
        )


def _token(
    tokens: Sequence[str], fields: Mapping[str, Any], key: str, source: str
) -> str | None:
    index = fields.get(key)
    if index is None:
        return None
    if not (isinstance(index, int) and 0 <= index < len(tokens)):
        raise BadInputError(
            f"{source}: tokenizer.ggml.{key} is {show(index)}, but there are "
            f"{len(tokens)} tokens"
        )
    return tokens[index]


def _merges(fields: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [tuple(merge.split(" ")) for merge in fields["merges"]]


def _byte_level(tokens: list[str], merges: list[tuple[str, ...]], split: Split) -> Any:
    from tokenizers import Tokenizer, decoders, models

    vocab = {token: i for i, token in enumerate(tokens)}
    model = models.BPE(vocab=vocab, merges=merges, ignore_merges=split.ignore_merges)
    backend = Tokenizer(model)
    split.apply(backend)
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(fields: Mapping[str, Any], tokens: list[str], unknown: str) -> Any:
    """As Llama 2's tokenizer.json: every piece of text begins with a space."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers.tokenization_utils_base import generate_merges

    vocab = {token: i for i, token in enumerate(tokens)}
    if "merges" in fields:
        merges = _merges(fields)
    else:
        scores = dict(zip(tokens, fields["scores"], strict=False))
        merges = generate_merges(vocab, scores)
    model = models.BPE(
        vocab=vocab,
        merges=merges,
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = Tokenizer(model)
    prefix = fields.get("add_space_prefix", True)
    backend.normalizer = normalizers.Sequence(
        [
            *([normalizers.Prepend(_SPACE)] if prefix else []),
            normalizers.Replace(" ", _SPACE),
        ]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if prefix else []),
        ]
    )
    return backend


def _add_special_tokens(backend: Any, tokens: list[str], kinds: list[int]) -> None:
    """Makes tokens of these types be found whole in any text."""
    from tokenizers import AddedToken

    def of(*wanted: int) -> list[Any]:
        pairs = zip(tokens, kinds, strict=True)
        return [AddedToken(t, normalized=False) for t, kind in pairs if kind in wanted]

    backend.add_special_tokens(of(_UNKNOWN, _CONTROL))
    backend.add_tokens(of(_USER_DEFINED))
