"""Sources: which dialogues are learnt, and what is said of those that do not fit."""

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.training.jsonl import Dialogue
from cycleqd_jax.training.sources import make_source


def dialogue(words: int, where: str) -> Dialogue:
    """Its example has `words` + 6 tokens."""
    question = {"role": "user", "content": " ".join("a" * words)}
    return Dialogue((question, {"role": "assistant", "content": "b"}), where)


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
