"""Questions of several individuals in one engine."""

import pytest

from cycleqd_jax.evaluation.language.engine import Continuation, Likelihood, Panel
from cycleqd_jax.inference.requests import Limits

HEADER = tuple(range(100, 160))


def continuations(count: int) -> list[Continuation]:
    return [
        Continuation((*HEADER, 200 + place % 7, 300 + place), Limits(3))
        for place in range(count)
    ]


def test_neighbours_share_what_they_begin_with(engine_for):
    engine = engine_for(0)
    before = engine.stats.reused_tokens
    questions = continuations(96)  # 16 in each slot's run
    [answers] = Panel(engine_for).ask(questions)
    assert engine.stats.reused_tokens - before >= 90 * len(HEADER)
    [alone] = Panel(engine_for).ask(questions[41:42])
    assert alone[0].tokens == answers[41].tokens
    assert [a.prompt_tokens for a in answers] == [len(q.tokens) for q in questions]


def test_progress_counts_every_answer(engine_for):
    told = []
    panel = Panel(engine_for, progress=lambda done, total: told.append((done, total)))
    questions = [Likelihood((5, 6, 7, number), 2) for number in range(9)]
    [answers] = panel.ask(questions)
    assert told == [(n + 1, 9) for n in range(9)]
    assert all(len(a.logprobs) == 2 for a in answers)
    assert panel.ask([]) == [[]]


def test_the_engine_is_asked_for_room(engine_for):
    wanted = []

    def sized(length):
        wanted.append(length)
        return engine_for(length)

    Panel(sized).ask([Likelihood(tuple(range(10)), 3), Likelihood((1, 2), 1)])
    Panel(sized).ask([Continuation((1, 2, 3), Limits(30))])
    assert wanted == [9, 33]


def test_a_failing_device_call_is_heard_of(engine_for, monkeypatch):
    engine = engine_for(0)

    def fail(rows):
        raise OSError("the device is gone")

    monkeypatch.setattr(engine._calls, "prefill", fail)
    with pytest.raises(OSError, match="the device is gone"):
        Panel(engine_for).ask(continuations(3))
    monkeypatch.undo()
    assert Panel(engine_for).ask(continuations(3))[0][0].tokens


def test_a_request_without_room_fails_alone_and_is_heard_of(engine_for):
    with pytest.raises(ValueError, match="leave no room"):
        Panel(engine_for).ask([Continuation(tuple(range(400)), Limits(3))])
