"""A user's own dialogues: what is read, and what is said of each wrong line."""

import json

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.training.jsonl import read_dialogues

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
    assert (first.where, second.where) == (f"{path} line 1", f"{path} line 3")


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
        (line(ASK, ANSWER | {"content": " \n"}), ["message 2", "says nothing"]),
        (line(ASK, ANSWER, ASK), ["ends with a message of the user"]),
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
