"""The pre-tokenisers that `tokenizer.ggml.pre` of a GGUF file names.

Each name stands for the pre-tokeniser of a published tokenizer.json, and for two habits
of llama.cpp's reader: whole words that are tokens are not merged from pieces
(`ignore_merges`), and a beginning-of-sequence token is added where the file does not
say whether to.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _END
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_QWEN35 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _END
)
_LOWER_ENDED = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_UPPER_BEGUN = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_LOWER_ENDED}%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER_BEGUN}%s"
    rf"|%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_END}"
)
_TEKKEN = _CASED % ("", "", r"\p{N}")
_GPT4O = _CASED % (f"{_CONTRACTIONS}?", f"{_CONTRACTIONS}?", r"\p{N}{1,3}")


class Split(NamedTuple):
    """One way to split text.

    Attributes:
      pattern: regular expression of the pieces; None for GPT-2's.
      digits: whether every digit is a piece of its own before the rest is split.
      nfc: whether text is brought into Unicode's form C first.
      ignore_merges: whether a piece that is a token is left whole.
      adds_bos: whether a beginning-of-sequence token is added by default.
    """

    pattern: str | None = None
    digits: bool = False
    nfc: bool = False
    ignore_merges: bool = False
    adds_bos: bool = False

    def apply(self, backend: Any) -> None:
        """Sets normaliser and pre-tokeniser of a byte-level `tokenizers.Tokenizer`."""
        from tokenizers import Regex, normalizers, pre_tokenizers

        steps = [pre_tokenizers.Digits(individual_digits=True)] if self.digits else []
        if self.pattern:
            steps.append(pre_tokenizers.Split(Regex(self.pattern), "isolated"))
        plain = self.pattern is None
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=plain))
        backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
        if self.nfc:
            backend.normalizer = normalizers.NFC()


_WHOLE = Split(_LLAMA3, ignore_merges=True, adds_bos=True)
_GPT2, _DIGITS = Split(), Split(digits=True)
SPLITS = {
    "llama-bpe": _WHOLE,
    "llama3": _WHOLE,
    "llama-v3": _WHOLE,
    "falcon3": _WHOLE,
    "falcon-h1": _WHOLE,
    "pixtral": _WHOLE,
    "midm-2.0": _WHOLE,
    "lfm2": _WHOLE,
    "jina-v5-nano": _WHOLE,
    "dbrx": Split(_LLAMA3),
    "smaug-bpe": Split(_LLAMA3),
    "tekken": Split(_TEKKEN, ignore_merges=True, adds_bos=True),
    "qwen2": Split(_QWEN2, nfc=True),
    "deepseek-r1-qwen": Split(_QWEN2, nfc=True),
    "f2llmv2": Split(_QWEN2, nfc=True),
    "qwen35": Split(_QWEN35, nfc=True),
    "kormo": Split(_QWEN2),
    "megrez": Split(_QWEN2),
    "gpt-4o": Split(_GPT4O),
    "llama4": Split(_GPT4O),
    "kanana2": Split(_GPT4O),
    "talkie": Split(_GPT4O),
    "minimax-m2": Split(_GPT4O),
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "codeshell": _DIGITS,
}


def split_names(tokenizer: Mapping[str, Any]) -> Iterator[str]:
    """The names in `SPLITS` of the way in which a tokeniser splits text.

    Args:
      tokenizer: a parsed tokenizer.json of byte-level BPE.

    Yields:
      Every name of its normaliser and pre-tokeniser; those that also agree on whether
      whole words are merged come first.
    """
    from tokenizers import Tokenizer, models

    whole = bool(tokenizer["model"].get("ignore_merges"))
    for name, split in sorted(
        SPLITS.items(), key=lambda item: item[1].ignore_merges != whole
    ):
        made = Tokenizer(models.BPE())
        split.apply(made)
        if split_steps(json.loads(made.to_str())) == split_steps(tokenizer):
            yield name


def split_steps(tokenizer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps of a parsed tokenizer.json before its model, without nesting."""
    steps = []
    for part, inner in (
        ("normalizer", "normalizers"),
        ("pre_tokenizer", "pretokenizers"),
    ):
        step = tokenizer.get(part)
        if step is not None:
            steps += step[inner] if step["type"] == "Sequence" else [step]
    # How offsets are counted changes no token.
    return [{k: v for k, v in s.items() if k != "trim_offsets"} for s in steps]
