"""Questions of several individuals in one engine."""

import pytest

from cycleqd_jax.evaluation.language.panel import Panel, Question
from cycleqd_jax.inference.requests import Limits

HEADER = tuple(range(100, 160))


def prompts(count: int) -> list[Question]:
    return [
        Question((*HEADER, 200 + place % 7, 300 + place), limits=Limits(3))
        for place in range(count)
    ]


def test_neighbours_share_what_they_begin_with(loader_for, make_panel):
    stats = loader_for(0).engine.stats
    before = stats.reused_tokens
    questions = prompts(96)  # 16 in each slot's run
    answers = make_panel().answers(questions, "base")
    assert stats.reused_tokens - before >= 90 * len(HEADER)
    [alone] = make_panel().answers(questions[41:42], "base")
    assert alone.tokens == answers[41].tokens
    assert [a.prompt_tokens for a in answers] == [len(q.tokens) for q in questions]


def test_progress_counts_every_answer(loader_for):
    told = []
    panel = Panel(
        loader_for,
        {"one": None, "two": None},
        lambda done, total: told.append((done, total)),
    )
    questions = [Question((5, 6, 7, number), 2) for number in range(9)]
    answers = panel.answers(questions, "one")
    assert told == [(n + 1, 18) for n in range(18)]
    assert all(len(a.logprobs) == 2 for a in answers)
    assert panel.answers(questions, "two") == answers
    assert len(told) == 18  # the second one's answers were there


def test_the_engine_is_asked_for_room(loader_for):
    wanted = []

    def sized(length):
        wanted.append(length)
        return loader_for(length)

    panel = Panel(sized, {"base": None})
    panel.answers([Question(tuple(range(10)), 3), Question((1, 2), 1)], "base")
    panel.answers([Question((1, 2, 3), limits=Limits(30))], "base")
    assert wanted == [9, 33]


def test_a_failing_device_call_is_heard_of(loader_for, make_panel, monkeypatch):
    def fail(rows):
        raise OSError("the device is gone")

    monkeypatch.setattr(loader_for(0).engine._calls, "prefill", fail)
    with pytest.raises(OSError, match="the device is gone"):
        make_panel().answers(prompts(3), "base")
    monkeypatch.undo()
    assert make_panel().answers(prompts(3), "base")[0].tokens


def test_a_request_without_room_is_heard_of(make_panel):
    with pytest.raises(ValueError, match="leave no room"):
        make_panel().answers([Question(tuple(range(400)), limits=Limits(3))], "base")
