"""Accepted replies become answers to learn from; others do not."""

import types

from cycleqd_jax.evaluation.accepted import AcceptedReplies
from cycleqd_jax.tasks.base import Problem, Split

SAID = ("user", "assistant", "user")  # of a problem that opens with a reply


class Opens:
    """Problems 0 and 1 open with a user message, problem 2 with a conversation."""

    name = "opens"

    def problems(self, split):
        assert split is Split.OPTIMISE
        return [Problem(str(i), "?", "!", {}) for i in range(3)]

    def dialogue(self, problem):
        return None

    def opening(self, problem):
        roles = SAID if problem.id == "2" else SAID[:1]
        return [{"role": role, "content": "hm"} for role in roles]


def episode(problem, reply, score=1.0, turns=1):
    return types.SimpleNamespace(
        task="opens", problem=problem, reply=reply, score=score, turns=turns
    )


def test_the_reply_that_most_individuals_gave_is_learnt():
    record = AcceptedReplies([Opens()])
    assert record.replies() == {}
    record.add([episode("1", "first"), episode("1", "often"), episode("1", "often")])
    assert record.replies() == {"opens": {"1": "often"}}
    record.add([episode("1", "first"), episode("0", "x")])
    assert record.replies() == {"opens": {"0": "x", "1": "first"}}  # a tie: the first


def test_what_few_have_solved_has_the_most_to_learn():
    record = AcceptedReplies([Opens()])
    record.add([episode("0", "x"), episode("0", "x"), episode("1", "y")])
    record.add(episode("1", "no", 0.0) for _ in range(3))
    record.add([episode("2", "no", 0.0)])
    assert record.solved() == ({"opens": ("0", "1")}, {"opens": (0.01, 0.75)})


def test_wrong_blank_and_later_replies_are_not_learnt():
    record = AcceptedReplies([Opens()])
    record.add(
        [episode("0", "wrong", 0.5), episode("0", " "), episode("0", "late", turns=2)]
    )
    record.add([episode("2", "not the first reply")])
    assert record.replies() == {}
