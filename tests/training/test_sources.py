"""Sources and files of dialogues, and the errors they may have."""

import json

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.training.sources import Dialogue, make_source, read_dialogues


def dialogue(words: int, origin: str) -> Dialogue:
    """Its example has `words` + 6 tokens."""
    question = {"role": "user", "content": " ".join("a" * words)}
    return Dialogue((question, {"role": "assistant", "content": "b"}), origin)


DIALOGUES = [dialogue(2, "f line 1"), dialogue(9, "f line 2"), dialogue(7, "f line 3")]


def test_dialogues_that_are_too_long_are_an_error_or_dropped(word_tokenizer):
    with pytest.raises(BadInputError) as caught:
        make_source("f", DIALOGUES, word_tokenizer, max_length=12, drop=False)
    assert str(caught.value) == (
        "optimiser.max_length is 12 tokens, but f line 2 has 15 and 1 more are too "
        "long; set it to 15 or more, or leave such dialogues out with too_long=drop."
    )
    source = make_source("f", DIALOGUES, word_tokenizer, max_length=14, drop=True)
    assert (source.dialogues, source.dropped, len(source.examples)) == (3, 1, 2)


def test_something_must_be_left(word_tokenizer):
    with pytest.raises(BadInputError, match="set it to 15 or more"):
        make_source("f", DIALOGUES, word_tokenizer, max_length=7, drop=True)
    silent = [Dialogue(({"role": "user", "content": "a"},), "p/1")]
    for nothing in ([], silent):
        with pytest.raises(BadInputError, match=r"mine: has no dialogue.*train"):
            make_source("mine", nothing, word_tokenizer, max_length=9, drop=False)


def test_a_refusal_of_the_template_names_the_dialogue(word_tokenizer):
    class Strict(type(word_tokenizer)):
        def encode_chat(self, messages, add_generation_prompt=True):
            if messages[0]["content"] == "a":  # the probe for the end of a turn
                return [2]
            raise BadInputError("chat template: roles must alternate")

    with pytest.raises(BadInputError, match="f line 1: chat template"):
        make_source("f", DIALOGUES, Strict(), max_length=99, drop=False)


ASK, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
GOOD = json.dumps({"messages": [ASK, ANSWER]})


def line(*messages) -> str:
    return json.dumps({"messages": list(messages)})


def test_lines_are_dialogues_and_further_keys_are_passed_over(tmp_path):
    path = tmp_path / "chat.jsonl"
    system = {"role": "system", "content": "s"}
    more = {"messages": [system, ASK, ANSWER | {"name": "x"}], "id": 7}
    text = "\n".join([GOOD, "", json.dumps(more)])
    path.write_bytes(text.encode() + b"\r\n")
    first, second = read_dialogues(path)
    assert first.messages == (ASK, ANSWER)
    assert second.messages == (system, ASK, ANSWER)
    assert (first.origin, second.origin) == (f"{path} line 1", f"{path} line 3")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ('{"messages": [', ["is not JSON"]),
        (b'{"messages": "\xff"}', ["is not JSON in UTF-8"]),
        ("[" * 100000, ["is not JSON"]),
        ("[1]", ['a list "messages"', "[1]"]),
        ('{"message": []}', ['a list "messages"']),
        ('{"messages": []}', ["not empty"]),
        (line("hello"), ["message 1", '"role" and "content"', '"hello"']),
        (line(ASK, {"role": "bot", "content": "x"}), ["message 2", '"bot"', "user"]),
        (line({"content": "x"}), ["its role is null"]),
        (line({"role": ["user"], "content": "x"}), ["its role is"]),
        (line(ASK, {"role": "assistant", "content": None}), ["content is null"]),
        (line(ASK, ANSWER | {"content": [{"text": "x"}]}), ["expected a text"]),
        (line(ASK, ANSWER | {"content": " \n"}), ["message 2", "content is empty"]),
        (line(ASK | {"content": "cut \ud83d"}, ANSWER), ["half of a character"]),
        (line(ASK, ANSWER, ASK), ["last message is of the user"]),
    ],
)
def test_each_wrong_line_is_named_in_one_sentence(tmp_path, bad, words):
    path = tmp_path / "chat.jsonl"
    bad = bad if isinstance(bad, bytes) else bad.encode()
    path.write_bytes(GOOD.encode() + b"\n" + bad + b"\n")
    with pytest.raises(BadInputError) as caught:
        read_dialogues(path)
    text = str(caught.value)
    assert text.startswith(f"{path} line 2") and "\n" not in text
    for word in words:
        assert word in text


def test_files_that_hold_no_dialogue(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(BadInputError, match=r"empty\.jsonl: has no dialogue"):
        read_dialogues(tmp_path / "empty.jsonl")
    with pytest.raises(BadInputError, match=r"none\.jsonl: cannot be read"):
        read_dialogues(tmp_path / "none.jsonl")
    with pytest.raises(BadInputError, match="cannot be read"):
        read_dialogues(tmp_path)
