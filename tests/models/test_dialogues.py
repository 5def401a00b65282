"""Dialogues as token ids: what is learnt, and after what."""

from cycleqd_jax.models.dialogues import (
    Example,
    examples_of,
    fingerprint,
    turn_end,
)

TURNS = [("user", "a b"), ("assistant", "c"), ("user", "d"), ("assistant", "e f")]
DIALOGUE = [{"role": role, "content": text} for role, text in TURNS]


def test_one_example_learns_all_replies_of_a_dialogue(word_tokenizer):
    end = turn_end(word_tokenizer)
    assert end == 2  # what the template writes, not the end of the sequence, 5
    (found,) = examples_of(DIALOGUE, word_tokenizer, end)
    assert found.tokens == (1, 10, 11, 2, 9, 1, 12, 2, 9, 1, 13, 2, 9, 1, 14, 15, 2)
    assert [found.tokens[i] for i in found.learnt] == [12, 2, 14, 15, 2]


def test_a_template_that_rewrites_the_past_makes_an_example_per_reply(word_tokenizer):
    class Forgetful(type(word_tokenizer)):
        """Writes earlier replies without what they say."""

        def encode_chat(self, messages, add_generation_prompt=True):
            quiet = [
                {**m, "content": "" if m["role"] == "assistant" else m["content"]}
                for m in messages
            ]
            return super().encode_chat(quiet, add_generation_prompt)

    first, second = examples_of(DIALOGUE, Forgetful(), 2)
    assert first == Example((1, 10, 11, 2, 9, 1, 12, 2), (6, 7))
    assert second.tokens[second.learnt[0] :] == (14, 15, 2)
    assert second.tokens[: second.learnt[0]] == tuple(
        Forgetful().encode_chat(DIALOGUE[:3])
    )
    assert 12 not in second.tokens


def test_prompts_are_those_of_the_engine(word_tokenizer):
    (found,) = examples_of(DIALOGUE[:2], word_tokenizer, 2)
    prompt = word_tokenizer.encode_chat(DIALOGUE[:1])
    assert list(found.tokens[: len(prompt)]) == prompt
    assert found.learnt[0] == len(prompt)


def test_the_fingerprint_sees_tokens_losses_weights_and_order():
    one, two = Example((1, 2, 3), (2,)), Example((1, 2, 3), (1, 2))
    prints = [
        fingerprint([(1.0, [one])]),
        fingerprint([(1.0, [two])]),
        fingerprint([(2.0, [one])]),
        fingerprint([(1.0, [one, two])]),
        fingerprint([(1.0, [two, one])]),
        fingerprint([(1.0, [one]), (1.0, [two])]),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint([(1.0, [one])]) == prints[0]
