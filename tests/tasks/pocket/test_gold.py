"""Right answers are right, and answers of other problems are not."""

import collections
import re

import pytest

from cycleqd_jax.tasks.base import Outcome, Split, TaskSettings


def gold(task, problem) -> str:
    return task.dialogue(problem)[-1]["content"]


def meaning(problem) -> str:
    """A right answer that does not tell what a function's argument is called."""
    answer = problem.answer
    if signature := re.match(r"def \w+\((.*)\):", answer):
        for argument in signature[1].split(", "):
            answer = re.sub(rf"\b{argument}\b", "_", answer)
    return answer


def once_each(task, splits=tuple(Split)):
    """Each template once, from all splits in turn."""
    problems = [p for split in reversed(splits) for p in task.problems(split)]
    return list({p.data["template"]: p for p in problems}.values())


def assert_all_solved(task, play, problems):
    results = play(task, [(p, [gold(task, p)]) for p in problems])
    wrong = [
        (p.id, p.prompt, p.answer, r.explanation)
        for p, r in zip(problems, results, strict=True)
        if r.outcome is not Outcome.SOLVED
    ]
    assert not wrong


def shuffled_score(task, play, problems) -> float:
    others = problems[1:] + problems[:1]
    pairs = [
        (p, [gold(task, q)])
        for p, q in zip(problems, others, strict=True)
        if p.answer != q.answer
    ]
    results = play(task, pairs)
    return sum(r.score for r in results) / len(results)


def test_right_answers_of_each_template_are_solved(task, play):
    assert_all_solved(task, play, once_each(task))


@pytest.mark.slow
def test_answers_of_other_templates_fail(task, play):
    assert shuffled_score(task, play, once_each(task)) < 0.05


def test_answers_of_the_same_template_fail(task, play):
    """Data discriminates by constants and names, not only by the kind of demand."""
    by_template = collections.defaultdict(list)
    for problem in task.problems(Split.TEST):
        by_template[problem.data["template"]].append(problem)
    pairs = [same[:2] for same in by_template.values()]
    differ = [(p, q) for p, q in pairs if meaning(p) != meaning(q)]
    assert len(differ) > 36
    results = play(task, [(p, [gold(task, q)]) for p, q in differ])
    assert sum(r.score for r in results) / len(results) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_all_right_answers_are_solved_and_shuffled_ones_are_not(task, play, seed):
    sizes = {Split.TRAIN: 500} | dict.fromkeys(list(Split)[1:], 144)
    full = type(task)(TaskSettings(seed, sizes))
    for split in Split:
        assert_all_solved(full, play, full.problems(split))
        assert shuffled_score(full, play, list(full.problems(split))) < 0.05
