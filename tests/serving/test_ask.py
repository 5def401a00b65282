"""The command that asks several individuals."""

import dataclasses
import pathlib
import types

import pytest

from cycleqd_jax import reports
from cycleqd_jax.chat import Finish
from cycleqd_jax.inference.requests import Generation
from cycleqd_jax.serving.together import likeliest_reply, majority
from experiments import ask


def reply(text, *logprobs):
    return Generation(text, (1,) * len(logprobs), Finish.STOP, 3, 0, logprobs)


def test_votes_and_the_likeliest():
    replies = {
        "a": reply("yes", -3.0, -1.0),
        "b": reply("no", -1.5),
        "c": reply(" yes\n", -0.1, -2.0, -2.0),
        "d": reply("perhaps", -0.2, -0.2),
    }
    assert likeliest_reply(replies) == "d"
    assert majority(replies) == ("c", 2)  # of those who say yes it is the likeliest
    del replies["c"]
    assert majority(replies) == ("d", 1)


@pytest.mark.parametrize(
    ("arguments", "roles"), [([], ["user"]), (["--system", ""], ["system", "user"])]
)
def test_an_empty_system_message_is_one(monkeypatch, arguments, roles):
    run = types.SimpleNamespace(with_base=lambda path: run)
    asked = []

    def ask_all(desk, catalogue, names, messages, tokens):
        asked.extend(messages)
        return {}

    monkeypatch.setattr(ask, "open_run", lambda path: run)
    monkeypatch.setattr(ask, "open_desk", lambda *_: None)
    monkeypatch.setattr(ask, "Catalogue", lambda run: None)
    monkeypatch.setattr(ask, "check_names", lambda *_: None)
    monkeypatch.setattr(ask, "ask_all", ask_all)
    assert ask.main(["RUN", "hi", "--models", "base", *arguments]) == 0
    assert [message["role"] for message in asked] == roles


def test_answers_side_by_side(toy_run, endpoint, capsys):
    question = "toy_a test 1"
    names = ["base", "champion/toy_a", "aggregated"]
    arguments = [str(toy_run), question, "--max-tokens", "6", "--vote", "--best-of"]
    assert ask.main([*arguments, "--models", *names]) == 0
    printed = capsys.readouterr().out
    for name in names:
        asked = {"model": name, "messages": [{"role": "user", "content": question}]}
        _, answer = endpoint.post("/v1/chat/completions", asked | {"max_tokens": 6})
        text = answer["choices"][0]["message"]["content"]
        words = [word for word in text.split() if word.isascii() and word.isalnum()]
        assert name in printed and all(word in printed for word in words)
    assert "of 3 say, like" in printed and "the likeliest answer is that of" in printed


WHOLE = {"a": reply("yes", -1.0)}
CUT = {"b": dataclasses.replace(reply("no\n", -0.1), finish=Finish.LENGTH)}


@pytest.mark.parametrize(
    ("replies", "times"),
    [
        (WHOLE | CUT, [1, 1, 1]),  # a vote of one against one is that of the likeliest
        (WHOLE | CUT | {"c": reply("yes", -2.0)}, [1, 0, 1]),
        (WHOLE, [0, 0, 0]),
        ({"b": dataclasses.replace(CUT["b"], text="")}, [1, 1, 1]),
    ],
)
def test_an_answer_that_was_cut_says_so(monkeypatch, capsys, replies, times):
    run = types.SimpleNamespace(with_base=lambda path: run)
    monkeypatch.setattr(ask, "open_run", lambda path: run)
    for name in ("open_desk", "Catalogue", "check_names"):
        monkeypatch.setattr(ask, name, lambda *_: None)
    monkeypatch.setattr(ask, "ask_all", lambda *_: replies)
    chat = pathlib.Path(reports.__file__).parent / "web" / "chat.js"
    assert ask._CUT in chat.read_text()  # the explorer says the same
    arguments = ["RUN", "hi", "--models", "base", "--vote", "--best-of"]
    assert ask.main(arguments) == 0
    printed = capsys.readouterr().out
    table, _, rest = printed.partition("say, like")
    vote, _, best = rest.partition("the likeliest answer")
    # Columns of a table are narrow, so that words are on lines of their own.
    assert [part.count("Cut:") for part in (table, vote, best)] == times
    assert [part.count(f"\n{ask._CUT}\n") for part in (vote, best)] == times[1:]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["word " * 2000], "The prompt has"),
        (["hi", "--max-tokens", "0"], "expected at least 1"),
    ],
)
def test_what_is_wrong(toy_run, capsys, arguments, words):
    assert ask.main([str(toy_run), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_names_are_checked_before_anything_is_loaded(toy_run, monkeypatch, capsys):
    monkeypatch.setattr(ask, "open_desk", lambda *_: pytest.fail("it loads"))
    names = ["--models", "base", "child/999"]
    assert ask.main([str(toy_run), "hi", *names]) == 2
    assert "'child/999' does not exist" in capsys.readouterr().err
