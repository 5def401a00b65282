"""What a summary says of results that are made up."""

import types

import pytest

from cycleqd_jax.config import RunConfig
from cycleqd_jax.study.results import Point, Result
from cycleqd_jax.study.settings import CompareConfig, ModelMethod, Study
from cycleqd_jax.study.summary import make_layout, make_summary
from cycleqd_jax.study.tables import make_markdown
from cycleqd_jax.tasks.base import Problem, Split


class Tells:
    """Its templates are called by a letter; c and d are held out."""

    def __init__(self, name):
        self.name = name

    def problems(self, split):
        assert split is Split.TEST
        return [
            Problem(f"{self.name}/{i}", "?", "!", {"template": "abcd"[i % 4]})
            for i in range(8)
        ]

    @staticmethod
    def is_held_out(problem):
        return problem.data["template"] in "cd"


TASKS = (Tells("x"), Tells("y"))


def result(solved, tokens, children=10):
    scores = {
        task.name: {p.id: float(solved(p)) for p in task.problems(Split.TEST)}
        for task in TASKS
    }
    return Result(scores, tokens, 1.0, (Point(10, tokens, 0.5, 0.5),), children, 0.25)


@pytest.fixture
def study(tmp_path):
    run = RunConfig(
        base_model="m", tasks=("x", "y"), experts={"x": "e", "y": "e"},
    )  # fmt: skip
    config = CompareConfig(
        base="b", seeds=[0, 1], methods={"cycleqd": {}, "rival": {}, "merge": {}}
    )
    methods = {"cycleqd": run, "rival": run, "merge": ModelMethod(model="base")}
    return Study(config, tmp_path, methods)


@pytest.fixture
def summary(study):
    trained = lambda p: p.data["template"] in "ab"  # noqa: E731
    found = {
        "cycleqd": {s: result(lambda p: True, 1000) for s in (0, 1)},
        "rival": {s: result(trained, 1300) for s in (0, 1)},
        "merge": {s: result(lambda p: False, 10, children=0) for s in (0, 1)},
    }
    return make_summary(study, TASKS, found)


def test_trained_and_held_out_templates_have_columns_of_their_own(summary):
    rival = summary["methods"]["rival"]
    assert rival["mean"] == 0.5 and rival["difference"] == -0.5
    assert rival["templates"]["trained"]["mean"] == 1
    assert rival["templates"]["held_out"]["mean"] == 0
    text = make_markdown(summary)
    assert "| trained templates | held-out templates |" in text
    assert "| rival | 50.0 | 50.0 | 50.0 | 100.0 | 0.0 | 0.250 | 1,300 |" in text


def test_tokens_to_the_result_of_the_reference_come_from_mean_curves(study):
    """Curves of two seeds; the shorter one decides how far their mean goes."""

    def curved(*heights):
        points = [Point(i, 100 * i, h, h) for i, h in enumerate(heights, 1)]
        return result(lambda p: True, 400)._replace(curve=tuple(points))

    found = {
        "cycleqd": {0: curved(0.1, 0.3, 0.5), 1: curved(0.1, 0.3, 0.7)},  # ends at 0.6
        "rival": {0: curved(0.2, 0.5, 0.9), 1: curved(0.2, 0.7)},
        "merge": {s: curved(0.2, 0.3) for s in (0, 1)},
    }
    methods = make_summary(study, TASKS, found)["methods"]
    got = {name: entry["tokens_to_reference"] for name, entry in methods.items()}
    assert got == {"cycleqd": 300, "rival": 200, "merge": None}


def test_a_perfect_score_has_an_interval_with_a_width(summary):
    low, high = summary["methods"]["cycleqd"]["interval"]
    assert 0.7 < low < 0.95 and high == 1


def test_budgets_that_differ_are_named_with_the_children_that_would_be_equal(summary):
    [remark] = summary["remarks"]
    assert remark.startswith("rival took 1300 tokens, 1.30 times as many as cycleqd")
    assert remark.endswith("its 10 children should be about 8.")


def test_the_reference_is_compared_with_nothing(summary):
    own = summary["methods"]["cycleqd"]
    assert own["difference"] == 0 and own["p_value"] == 1
    rivals = [summary["methods"][n]["p_value"] for n in ("rival", "merge")]
    assert all(p <= 1 for p in rivals)


def test_problems_without_a_template_are_templates_of_their_own():
    plain = types.SimpleNamespace(
        name="z", problems=lambda split: [Problem(str(i), "?", "!") for i in range(3)]
    )
    layout = make_layout((TASKS[0], plain))
    assert layout.templates.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6]
    assert layout.tasks.tolist() == [0] * 8 + [1] * 3
