"""The vocabulary of a GGUF file from a model's own tokeniser.

`gguf_tokenizer` is the way back, and every vocabulary goes it once before it is used:
one that would come back as another tokeniser is refused.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cycleqd_jax.errors import BadInputError, show
from cycleqd_jax.models.formats.gguf_splits import SPLITS, split_names, split_steps
from cycleqd_jax.models.formats.gguf_tokenizer import tokenizer_from_metadata
from cycleqd_jax.models.tokenizer import ChatTokenizer

_SPACE = "\u2581"  # SentencePiece's
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_OTHERWISE = "export the folder without a GGUF file"
_PROBES = (
    "Hello World! It's 3 o'clock, they'LL see: 1234567 + 3.14 = ?\n",
    "def f(x):\n\tif x:\n        return [x, 'x'] # é\r\n\r\n  \n",
    "  two  spaces   and three\u00a0end  ",
    "naïve ÜBERGröße e\u0301 ½ ٣ 日本語 🤖\u200d🚀 नमस्ते",
    "HelloWorld x1y22 'tis ... !?/\n/ http://a.b/c?d=e&f <tag>",
)  # fmt: skip


def add_vocabulary(writer: Any, tokenizer: ChatTokenizer, rows: int) -> None:
    """Writes tokens, special tokens and chat template into a GGUF file.

    Args:
      writer: a `gguf.GGUFWriter` that has all its other fields.
      tokenizer: the model's: byte-level BPE whose pre-tokeniser has a name in
        llama.cpp, or SentencePiece's BPE.
      rows: of the embedding; those without a token become unused ones.

    Raises:
      BadInputError: a GGUF file cannot hold such a tokeniser; says why.
    """
    data = json.loads(tokenizer.hf.backend_tokenizer.to_str())
    model = data["model"]
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise BadInputError(
                f"GGUF file: a tokeniser with {key} = {show(model[key])} is not "
                f"written; {_OTHERWISE}."
            )
    if model["type"] != "BPE":
        raise BadInputError(
            f"GGUF file: a tokeniser of type {model['type']} is not written; expected "
            f"byte-level BPE or SentencePiece's BPE; {_OTHERWISE}."
        )
    pieces, first = bool(model["byte_fallback"]), False
    tokens = _tokens(tokenizer.hf, rows)
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    writer.add_tokenizer_pre("default" if pieces else _split(data))
    writer.add_token_list(tokens)
    writer.add_token_types(
        _types(tokenizer.hf, tokens, model["unk_token"] if pieces else None)
    )
    if pieces:
        prefix, first = _space_prefix(data)
        writer.add_token_scores(_scores(tokens, model["merges"]))
        writer.add_add_space_prefix(prefix)
    _add_special(writer, tokenizer, rows, merges=not pieces)
    fields = {name: field.value for name, field in writer.kv_data[0].items()}
    _check(data, tokenizer, tokenizer_from_metadata(fields, "GGUF file"), first)


def _tokens(hf: Any, rows: int) -> list[str]:
    texts = {i: token for token, i in hf.get_vocab().items()}
    # llama.cpp's converter gives these names to rows without a token.
    return [texts.get(i, f"[PAD{i}]") for i in range(rows)]


def _types(hf: Any, tokens: Sequence[str], unknown: str | None) -> list[int]:
    """The type of every token; bytes and unknowns are those of SentencePiece."""
    from gguf import TokenType

    known, added = hf.get_vocab(), hf.added_tokens_decoder

    def kind(i: int, token: str) -> int:
        if known.get(token) != i:
            return TokenType.UNUSED
        if unknown is not None and token == unknown:
            return TokenType.UNKNOWN
        if i in added:
            return TokenType.CONTROL if added[i].special else TokenType.USER_DEFINED
        is_byte = unknown is not None and _BYTE.fullmatch(token)
        return TokenType.BYTE if is_byte else TokenType.NORMAL

    return [int(kind(i, token)) for i, token in enumerate(tokens)]


def _split(data: Mapping[str, Any]) -> str:
    """The name of the pre-tokeniser of byte-level BPE."""
    whole = bool(data["model"].get("ignore_merges"))
    for name in split_names(data):
        if SPLITS[name].ignore_merges == whole or _merges_reach_all(data):
            return name
    raise BadInputError(
        f"GGUF file: the pre-tokeniser {show(split_steps(data))} is none that has a "
        f"known name in llama.cpp; {_OTHERWISE}."
    )


def _merges_reach_all(data: Mapping[str, Any]) -> bool:
    """True if leaving whole words unmerged changes nothing."""
    from tokenizers import models

    vocab = data["model"]["vocab"]
    merges = [tuple(merge) for merge in data["model"]["merges"]]
    model = models.BPE(vocab=vocab, merges=merges)
    special = {token["content"] for token in data["added_tokens"]}
    return all(len(model.tokenize(t)) == 1 for t in vocab if t not in special)


def _space_prefix(data: Mapping[str, Any]) -> tuple[bool, bool]:
    """Finds where SentencePiece's tokeniser puts a space in front of text.

    Returns:
      Whether it does so in front of every piece between special tokens, and whether it
      does so in front of a whole text only.
    """
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    steps = split_steps(data)
    if steps == [{"type": "Prepend", "prepend": _SPACE}, replace]:
        return True, False
    if steps == [replace]:
        return False, False
    if len(steps) == 1 and steps[0]["type"] == "Metaspace":
        scheme = steps[0]["prepend_scheme"]
        if steps[0]["replacement"] == _SPACE and scheme in ("never", "first"):
            if not steps[0]["split"]:
                return False, scheme == "first"
    raise BadInputError(
        f"GGUF file: a SentencePiece tokeniser that begins with {show(steps)} is not "
        f"written; {_OTHERWISE}."
    )


def _scores(tokens: Sequence[str], merges: Sequence[Sequence[str]]) -> list[float]:
    """SentencePiece's scores: what is merged earlier has the higher one."""
    found: dict[str, float] = {}
    for rank, (left, right) in enumerate(merges):
        found.setdefault(left + right, -float(rank))
    return [found.get(token, 0.0) for token in tokens]


def _add_special(
    writer: Any, tokenizer: ChatTokenizer, rows: int, *, merges: bool
) -> None:
    """Writes special tokens, merges and chat template."""
    import gguf

    hf = tokenizer.hf
    ends = [i for i in tokenizer.stop_ids if i != tokenizer.eos_id]
    if len(ends) > 2:
        raise BadInputError(
            f"GGUF file: replies end with the tokens {list(tokenizer.stop_ids)}, of "
            f"which a GGUF file names three; {_OTHERWISE}."
        )
    ids = {"bos": hf.bos_token_id, "eos": tokenizer.eos_id, "unk": hf.unk_token_id}
    ids |= {"pad": hf.pad_token_id, **dict(zip(("eot", "eom"), ends, strict=False))}
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save(place)
        special = gguf.SpecialVocab(place, load_merges=merges, n_vocab=rows)
    # The library guesses these from the files.
    special.special_token_ids = {
        name: i for name, i in ids.items() if i is not None and i < rows
    }
    around = hf.backend_tokenizer.encode("", add_special_tokens=True).ids
    special.add_special_token = {
        "bos": around[:1] == [hf.bos_token_id],
        "eos": around[-1:] == [tokenizer.eos_id],
    }
    special.add_to_gguf(writer, quiet=True)


def _check(
    data: Mapping[str, Any],
    tokenizer: ChatTokenizer,
    back: ChatTokenizer,
    after_special: bool,
) -> None:
    """Refuses a tokeniser that comes back from a GGUF file as another one."""
    read = json.loads(back.hf.backend_tokenizer.to_str())
    added = {
        token["content"] for token in (*data["added_tokens"], *read["added_tokens"])
    }
    one, other = (
        {
            (left, right)
            for left, right in t["model"]["merges"]
            if left + right not in added
        }
        for t in (data, read)
    )
    if one != other:
        raise BadInputError(
            "GGUF file: its merges are not those that SentencePiece makes of this "
            f"vocabulary, like {show(min(one ^ other))}; {_OTHERWISE}."
        )
    begin = tokenizer.hf.bos_token or "" if after_special else ""
    for text in _probes(tokenizer.hf):
        ids, got = tokenizer.encode(begin + text), back.encode(begin + text)
        if ids != got:
            raise BadInputError(
                f"GGUF file: this tokeniser cuts {show(text)} into {show(ids)}, but as "
                f"a GGUF file has it into {show(got)}; {_OTHERWISE}."
            )
    around = [t.hf("").input_ids for t in (tokenizer, back)]
    if around[0] != around[1]:
        raise BadInputError(
            f"GGUF file: this tokeniser puts the tokens {around[0]} around a text, "
            f"which a GGUF file cannot say; {_OTHERWISE}."
        )


def _probes(hf: Any) -> Iterator[str]:
    yield from _PROBES
    for token in hf.added_tokens_decoder.values():
        yield f"x {token.content} y{token.content}z"
