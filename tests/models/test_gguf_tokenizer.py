"""Vocabularies in GGUF files against the tokenizer.json of the same models."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer, pre_tokenizers, processors

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats.gguf_splits import SPLITS, split_names
from cycleqd_jax.models.formats.gguf_tokenizer import tokenizer_from_metadata

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
# "abc" is a token that no merges reach: "bc" is made first, and "a bc" is no merge.
MERGES = ["b c", "a b", "ab c", "1 2", "12 3", "Ġ h", "' s", "Ċ Ċ", "Ġ Ġ", "Ġ 1"]
SPECIAL = ["<|begin_of_text|>", "<|eot_id|>", "<think>"]
TOKENS = [*ALPHABET, *(m.replace(" ", "") for m in MERGES), *SPECIAL]
BOS, EOT = len(TOKENS) - 3, len(TOKENS) - 2
TEXTS = [
    "",
    "abc abcd",
    "it's 1234567  12   12\n\n x IT'S",
    "a\r\nb\t \n  h /\n",
    "naïve ÜBERGröße e\u0301 ½ ٣ 日本語 🤖",
    "  <think>123<|eot_id|>  h",
    "HelloWorld's x1y22 'tis ... !?\n",
]


def metadata(**changes):
    """The fields of a byte-level vocabulary; names without `tokenizer.ggml.`."""
    fields = {
        "model": "gpt2",
        "pre": "llama-bpe",
        "tokens": TOKENS,
        "token_type": [1] * BOS + [3, 3, 4],
        "merges": MERGES,
        "bos_token_id": BOS,
        "eos_token_id": EOT,
    }
    given = {n: v for n, v in (fields | changes).items() if v is not None}
    return {f"tokenizer.ggml.{name}": value for name, value in given.items()}


def read(**changes):
    return tokenizer_from_metadata(metadata(**changes), "v.gguf")


def published(model, steps, normalizer=None, added=SPECIAL):
    """A tokeniser from a tokenizer.json, spelt as the hub has it."""
    step = {"type": "Sequence", "pretokenizers": steps} if steps else None
    vocab = {token: i for i, token in enumerate(model.pop("tokens"))}
    made = Tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "normalizer": normalizer,
                "pre_tokenizer": step,
                "model": {"type": "BPE", "vocab": vocab} | model,
            }
        )
    )
    made.add_special_tokens([AddedToken(t, normalized=False) for t in added])
    return made


def split(pattern):
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def byte_level(use_regex=False):
    kind = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return kind | {"use_regex": use_regex}


DIGITS = {"type": "Digits", "individual_digits": True}
# The patterns of meta-llama/Meta-Llama-3-8B, Qwen/Qwen2-7B, and of Mistral-Nemo.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    ("pre", "steps", "whole", "normalizer"),
    [
        ("llama-bpe", [split(LLAMA3), byte_level()], True, None),
        ("smaug-bpe", [split(LLAMA3), byte_level()], False, None),
        ("tekken", [split(TEKKEN), byte_level()], True, None),
        ("qwen2", [split(QWEN2), byte_level()], False, {"type": "NFC"}),
        ("gpt-2", [byte_level(use_regex=True)], False, None),
        ("smollm", [DIGITS, byte_level(use_regex=True)], False, None),
    ],
)
def test_text_is_cut_as_by_the_published_tokenizer(pre, steps, whole, normalizer):
    model = {"tokens": TOKENS, "merges": MERGES, "ignore_merges": whole}
    theirs, ours = published(model, steps, normalizer), read(pre=pre)
    name = next(split_names(json.loads(theirs.to_str())))
    assert SPLITS[name] == SPLITS[pre]
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text).ids, text
        if normalizer is None:
            assert ours.decode(ours.encode(text), False) == text


@pytest.mark.parametrize("pre", SPLITS)
def test_transformers_splits_by_the_same_patterns(pre):
    from transformers.integrations.gguf import gguf_tokenizer_mapping

    theirs = gguf_tokenizer_mapping.GGUF_PRE_TOKENIZER_SPLITS.get(pre)
    assert theirs in (SPLITS[pre].pattern, None)


@pytest.mark.parametrize(
    ("pre", "whole"),
    [("llama3", True), ("llama-v3", True), ("llama-bpe", True), ("tekken", True),
     ("falcon3", True), ("dbrx", False), ("gpt-2", False)],
)  # fmt: skip
def test_a_word_that_is_a_token_is_left_whole(pre, whole):
    expected = ["abc"] if whole else ["a", "bc"]
    assert read(pre=pre).encode("abc") == [TOKENS.index(t) for t in expected]


@pytest.mark.parametrize(
    ("changes", "begins", "ends"),
    [
        ({}, True, False),
        ({"add_bos_token": False}, False, False),
        ({"bos_token_id": None}, False, False),
        ({"pre": "tekken", "add_eos_token": True}, True, True),
        ({"pre": "gpt-2"}, False, False),
        ({"pre": "gpt-2", "add_bos_token": True}, True, False),
    ],
)
def test_tokens_added_to_plain_text(changes, begins, ends, tmp_path):
    """A file without `add_bos_token` gets the default of its pre-tokeniser."""
    from transformers import AutoTokenizer

    read(**changes).save(tmp_path)
    found = AutoTokenizer.from_pretrained(tmp_path)("ab").input_ids
    assert found == [BOS] * begins + [TOKENS.index("ab")] + [EOT] * ends


def test_a_whole_tokenizer_json_in_the_file_is_obeyed():
    """`tokenizer.huggingface.json` is the model's own tokeniser."""
    model = {"tokens": TOKENS, "merges": MERGES, "ignore_merges": True}
    theirs = published(model, [split(LLAMA3), byte_level()], {"type": "NFC"})
    theirs.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", BOS)]
    )
    fields = metadata(pre="of the future", add_bos_token=None)
    fields["tokenizer.huggingface.json"] = theirs.to_str()
    ours = tokenizer_from_metadata(fields, "v.gguf")
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
        assert ours.hf(text).input_ids == theirs.encode(text).ids
    assert ours.stop_ids == (EOT,)
    fields["tokenizer.huggingface.json"] = "{}"
    with pytest.raises(BadInputError, match=r"v\.gguf: its vocabulary is damaged"):
        tokenizer_from_metadata(fields, "v.gguf")


def test_special_tokens_may_have_any_letters():
    tokens = [*TOKENS[:-1], "<\uff5cend▁of▁sentence\uff5c>"]
    ours = read(tokens=tokens, token_type=[1] * BOS + [3] * 3)
    assert ours.encode("a<\uff5cend▁of▁sentence\uff5c>b")[1] == len(tokens) - 1


def test_turns_and_messages_end_a_reply():
    assert read(eot_token_id=EOT, eom_token_id=BOS).stop_ids == (BOS, EOT)


def test_rows_beyond_the_vocabulary_are_no_tokens():
    n = len(TOKENS)
    padded = [*TOKENS, f"[PAD{n}]", f"[PAD{n + 1}]"]
    ours = read(tokens=padded, token_type=[1] * BOS + [3, 3, 4, 5, 5])
    assert ours.vocabulary == {token: i for i, token in enumerate(TOKENS)}


LETTERS = [chr(c) for c in range(97, 123)]
PIECES = ["▁", "▁t", "▁th", "▁the", "he", "in", "▁in", "ca", "cat", "▁cat", "▁▁"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]
SPM_TOKENS = ["<unk>", "<s>", "</s>", *BYTES, *PIECES, *LETTERS, "<tool>"]


def sentencepiece(**changes):
    count = len(PIECES) + len(LETTERS)
    fields = {
        "model": "llama",
        "pre": "default",
        "tokens": SPM_TOKENS,
        "scores": [0.0] * 259 + [-float(i) for i in range(count)] + [0.0],
        "token_type": [2, 3, 3] + [6] * 256 + [1] * count + [4],
        "merges": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return read(**(fields | changes))


def llama2(prefix):
    """Spelt as the tokenizer.json of meta-llama/Llama-2-7b-hf."""
    merges = [
        f"{token[:i]} {token[i:]}"
        for token in PIECES
        for i in range(len(token) - 1, 0, -1)
        if token[:i] in SPM_TOKENS and token[i:] in SPM_TOKENS
    ]
    model = {"tokens": SPM_TOKENS, "merges": merges, "unk_token": "<unk>"}
    model |= {"fuse_unk": True, "byte_fallback": True}
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    steps = [{"type": "Prepend", "prepend": "▁"}] * prefix + [space]
    normalizer = {"type": "Sequence", "normalizers": steps}
    return published(model, None, normalizer, ["<unk>", "<s>", "</s>", "<tool>"])


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_vocabulary(prefix, tmp_path):
    from transformers import AutoTokenizer

    ours, theirs = sentencepiece(add_space_prefix=prefix), llama2(prefix)
    for text in ["the cat", "in the  cat é", "  the", "</s>cat<tool> in", "tin\n", ""]:
        assert ours.encode(text) == theirs.encode(text).ids, text
    assert ours.decode(ours.encode("the cat in")) == "the cat in"
    ours.save(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    assert saved("cat").input_ids == [1, *theirs.encode("cat").ids]
    assert ours.stop_ids == (2,)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pre": None}, "lacks tokenizer.ggml.pre, "),
        ({"pre": "default"}, "tokenizer.ggml.pre 'default'"),
        ({"pre": ["llama-bpe"]}, "tokenizer.ggml.pre "),
        ({"model": "t5"}, "tokenizer.ggml.model 't5'"),
        ({"model": "bert"}, "tokenizer.ggml.model 'bert'"),
        ({"model": None}, "tokenizer.ggml.model None"),
        ({"merges": None}, "tokenizer.ggml.merges"),
        ({"token_type": None}, "tokenizer.ggml.token_type"),
        ({"token_type": [1, 3]}, "tokenizer.ggml.token_type"),
        ({"scores": [0.0]}, "tokenizer.ggml.scores"),
        ({"tokens": ["a", "a"]}, "tokenizer.ggml.tokens holds a token twice"),
        ({"eos_token_id": 10**6}, "tokenizer.ggml.eos_token_id is 1000000"),
        ({"eot_token_id": 10**6}, "tokenizer.ggml.eot_token_id is 1000000"),
        ({"add_bos_token": True, "bos_token_id": None}, "lacks tokenizer.ggml.bos_"),
        ({"add_eos_token": True, "eos_token_id": None}, "lacks tokenizer.ggml.eos_"),
        ({"add_bos_token": "odd"}, "tokenizer.ggml.add_bos_token = 'odd'"),
        ({"add_space_prefix": True}, "tokenizer.ggml.add_space_prefix"),
        ({"add_sep_token": True}, "tokenizer.ggml.add_sep_token"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces = true"),
        ({"precompiled_charsmap": [1, 2]}, "precompiled_charsmap"),
        ({"normalizer.lowercase": True}, "normalizer.lowercase"),
        ({"added_tokens": ["<x>"]}, "added_tokens"),
        ({"suppress_tokens": [1]}, "suppress_tokens"),
    ],
)
def test_refusals_name_the_field(changes, words):
    with pytest.raises(BadInputError, match=rf"^v\.gguf: .*{words}"):
        read(**changes)


def test_scores_that_say_nothing_are_refused():
    with pytest.raises(BadInputError, match=r"tokenizer\.ggml\.scores has one value"):
        sentencepiece(scores=[-1000.0] * len(SPM_TOKENS))


def test_fields_that_change_no_token_are_ignored():
    more = {"add_sep_token": False, "mask_token_id": 5, "token_type_count": 2}
    more |= {"fim_pre_token_id": 3, "remove_extra_whitespaces": False}
    assert read(**more).fingerprint == read().fingerprint
