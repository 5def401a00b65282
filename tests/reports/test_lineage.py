import dataclasses

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.reports.candidates import Child
from cycleqd_jax.reports.lineage import (
    expert_shares,
    make_lineage,
    parents_of,
)
from cycleqd_jax.reports.run_data import read_run
from cycleqd_jax.runs.facts import ChampionFacts


def child(t, first, second, weights=(1.0, 1.0)):
    return Child(t, f"child/{t}", "skill_a", (first, second), weights, {}, {})


def with_family(data, children, champions):
    aggregation = {
        group: ChampionFacts(individual=name, quality=0.5, validated=None, beta=0.5)
        for group, name in champions.items()
    }
    facts = data.facts.model_copy(update={"aggregation": aggregation})
    return dataclasses.replace(data, children=tuple(children), facts=facts)


@pytest.fixture
def data(finished_run):
    """A family made by hand: 1 of a and b, 2 of child 1 and c, 3 of c with itself."""
    a, b, c = (f"expert/skill_{letter}" for letter in "abc")
    children = (
        child(1, a, b, (1.5, 0.5)),
        child(2, "child/1", c, (2.0, 6.0)),
        child(3, c, c),
        child(4, a, b),
    )
    family = {"skill_a": a, "skill_b": "child/2", "skill_c": "child/3"}
    return with_family(read_run(finished_run), children, family)


def test_shares_are_mixed_as_crossed(data):
    assert expert_shares(data, "child/2") == pytest.approx(
        {"skill_a": 0.75 / 4, "skill_b": 0.25 / 4, "skill_c": 0.75}
    )
    assert expert_shares(data, "child/3")["skill_c"] == 1
    assert expert_shares(data, "expert/skill_b")["skill_b"] == 1


def test_shares_of_an_unknown_individual(data):
    with pytest.raises(BadInputError, match="child/9 was not recorded"):
        expert_shares(data, "child/9")
    orphan = dataclasses.replace(data, children=(child(5, "child/3", "child/4"),))
    with pytest.raises(BadInputError, match="child/5 has lost parents"):
        expert_shares(orphan, "child/5")


def test_only_ancestors_are_shown(data):
    graph = make_lineage(data)
    assert graph.columns[0] == ("expert/skill_a", "expert/skill_b", "expert/skill_c")
    assert graph.columns[1:] == (("child/1", "child/3"), ("child/2",), ("aggregated",))
    assert ("child/2", "aggregated") in graph.edges
    assert ("expert/skill_a", "aggregated") in graph.edges
    assert ("expert/skill_c", "child/3") in graph.edges
    assert len(graph.edges) == len(set(graph.edges)) == 8
    assert graph.left_out == 0


def test_a_long_lineage_keeps_the_nearest(data):
    chain = [child(1, "expert/skill_a", "expert/skill_b")]
    chain += [child(t, f"child/{t - 1}", "expert/skill_c") for t in range(2, 30)]
    long = with_family(data, chain, {"skill_a": "child/29"})
    graph = make_lineage(long, limit=5)
    shown = [name for column in graph.columns[1:] for name in column]
    assert shown == [*(f"child/{t}" for t in range(25, 30)), "aggregated"]
    assert graph.left_out == 24
    assert parents_of(long)["child/2"] == ("child/1", "expert/skill_c")


def test_children_without_parents_have_unknown_shares(data):
    lone = Child(1, "child/1", None, (), (), {}, {})
    made = with_family(data, [lone], {"mean": "child/1"})
    assert set(expert_shares(made, "child/1").values()) == {None}
    assert make_lineage(made).columns[1:] == (("child/1",), ("aggregated",))
