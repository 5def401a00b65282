"""The accuracies that a report shows beside the score."""

import pytest

from cycleqd_jax.reports import run_data
from cycleqd_jax.tasks.dbbench.metrics import group, summarise
from cycleqd_jax.tasks.dbbench.task import DBBench


@pytest.mark.parametrize(
    ("category", "want"),
    [("INSERT", "INSERT"), ("UPDATE", "UPDATE"), ("DELETE", "SELECT"),
     ("counting", "SELECT"), ("aggregation-SUM", "SELECT")],
)  # fmt: skip
def test_every_category_is_of_a_group(category, want):
    assert group(category) == want


def test_the_macro_accuracy_weighs_the_groups_that_occur_alike():
    means = {"SELECT_accuracy": 0.5, "INSERT_accuracy": 0.2, "UPDATE_accuracy": 0.8}
    assert summarise(means)["macro_accuracy"] == pytest.approx(0.5)
    del means["UPDATE_accuracy"]
    assert summarise(means) == {**means, "macro_accuracy": pytest.approx(0.35)}
    assert summarise({"messages": 5.0}) == {"messages": 5.0}


def test_reports_find_it_by_the_tasks_name():
    assert run_data._summary("dbbench") is DBBench.summarise
    assert run_data._summary("pocket_db")({"a": 1.0}) == {"a": 1.0}
    assert run_data._summary("gone.elsewhere:Task")({"a": 1.0}) == {"a": 1.0}
