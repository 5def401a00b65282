import itertools
import json
import types

import numpy as np
import pyarrow.parquet as pq
import pytest

from cycleqd_jax.merging.forms import MatrixSlot
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.reports import coverage, explorer, replies, shares
from cycleqd_jax.reports.population import read_population
from cycleqd_jax.reports.served import ServedRun
from cycleqd_jax.runs.opened import open_run


@pytest.fixture(scope="module")
def population(finished_run):
    return read_population(open_run(finished_run))


def archived(run, tasks):
    rows = pq.read_table(run / "archives.parquet").to_pylist()
    return {
        (tasks.index(r["archive"]), tuple(r["bins"])): r["individual"] for r in rows
    }


@pytest.mark.parametrize("num_tasks", [2, 3, 4])
def test_what_was_accepted_makes_the_archives_again(fabricate, num_tasks):
    run = fabricate(num_tasks, 9)
    opened = open_run(run)
    assert read_population(opened).elites() == archived(run, opened.tasks)


def test_a_run_in_progress_has_the_same_places_so_far(started, population):
    early = read_population(open_run(started(2)))
    assert len(early.children) == 8 and not early.aliases
    want = [p for p in population.placements if p.generation <= 8]
    assert list(early.placements) == want
    data = explorer.explorer_data(early, {})
    assert not data["finished"] and data["grid"]["bins"] == 6
    none = read_population(open_run(started(0)))
    assert not none.children and {p.generation for p in none.placements} == {0}


def test_verdicts_are_those_of_the_results(population, finished_run):
    data = explorer.explorer_data(population, {})
    aliases = population.aliases
    assert list(aliases) == ["best_of_archive"]
    seen = 0
    for path in (finished_run / "results").glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            name = aliases.get(row["individual"], row["individual"])
            if name not in data["verdicts"]:  # a factor that was only tried
                continue
            own = data["verdicts"][name][row["split"]][row["task"]]
            ids = data["problems"][row["split"]][row["task"]]
            assert own[ids.index(row["problem"])] == str(int(row["score"]))
            seen += 1
    assert seen > 1000 and not data["without_verdicts"]


def test_scores_between_0_and_1_and_problems_that_were_not_answered():
    assert explorer._row({"a": 1.0, "c": 0.0}, ["a", "b", "c"]) == "1-0"
    assert explorer._row({"a": 0.25, "c": 1.0}, ["a", "b", "c"]) == [0.25, None, 1.0]


def test_a_page_holds_a_bounded_part(population, monkeypatch):
    whole = explorer.explorer_data(population, {})
    monkeypatch.setattr(replies, "_TEXTS", 60)
    monkeypatch.setattr(explorer, "_VERDICTS", 900)
    part = explorer.explorer_data(population, {})

    def count(data, split):
        found = (own.get(split, {}) for own in data["replies"].values())
        return sum(len(problems) for tasks in found for problems in tasks.values())

    for split in ("optimise", "test"):
        assert 0 < count(part, split) < count(whole, split)
    assert sum(map(len, part["texts"])) < 400
    assert 0 < part["without_verdicts"] < len(population.names)
    assert "aggregated" in part["verdicts"]  # what a reader wants first is kept


def test_no_text_can_end_the_element_that_holds_the_data():
    text = explorer.to_json({"reply": "</script><!--\u2028\ud800\x00"})
    assert "<" not in text and text.isascii()
    assert json.loads(text)["reply"].startswith("</script>")


def test_all_replies_of_one_individual(population):
    found = replies.replies_of(population, "child/3")
    assert list(found) == ["optimise"]
    assert [len(own) for own in found["optimise"].values()] == [12, 12, 12]
    outcome, reply, why = found["optimise"]["skill_a"]["skill_a/optimise/0"]
    assert outcome in ("solved", "wrong") and reply.startswith("```") and why


def test_replies_on_test_have_their_verdicts(population):
    """Also those of a child that was compared under another name."""
    [(alias, child)] = population.aliases.items()
    for name in (alias, child, "base", "aggregated"):
        own = population.scores[name]["test"]
        found = replies.replies_of(population, name)["test"]
        assert found.keys() == own.keys()
        for task, problems in found.items():
            assert problems.keys() == own[task].keys()
            for problem, (outcome, _, _) in problems.items():
                assert (outcome == "solved") == (own[task][problem] == 1)


def test_a_served_run_is_read_again_when_it_has_changed(started, tmp_path):
    run, parts = started(3), {}
    for kind in ("results", "metrics"):
        path = run / kind / "batch-000003.parquet"
        parts[path] = path.read_bytes()
        path.unlink()
    served = ServedRun(open_run(run))
    assert len(json.loads(served.data())["individuals"]) == 3 + 8
    assert "search in progress" in served.page()
    for path, content in parts.items():
        path.write_bytes(content)
    assert len(json.loads(served.data())["individuals"]) == 3 + 12
    assert served.replies("child/12")
    with pytest.raises(ValueError, match="no individual"):
        served.replies("child/13")


def test_coverage_is_that_of_the_best_model_for_each_problem():
    rng = np.random.default_rng(0)
    table = (rng.random((6, 20)) < 0.3).astype(float)
    table[2, 5] = 0.5  # a score between
    scores = {
        f"m{i}": {"a": {f"p{j:02}": v for j, v in enumerate(row)}}
        for i, row in enumerate(table)
    }
    found = coverage.coverage(scores)
    assert found["together"] == pytest.approx(table.max(0).sum())
    assert found["best"] == table.sum(1).max() and found["problems"] == 20
    chosen = [int(row["name"][1:]) for row in found["cover"]]
    assert table[chosen].max(0).sum() == pytest.approx(found["together"])
    assert sum(row["adds"] for row in found["cover"]) == pytest.approx(
        found["together"]
    )
    fewest = next(
        n
        for n in range(1, 7)
        if any(
            table[list(some)].max(0).sum() == found["together"]
            for some in itertools.combinations(range(6), n)
        )
    )
    assert fewest <= len(chosen) <= fewest + 1
    assert coverage.coverage({"alone": scores["m0"]}) is None


def test_the_report_says_what_all_solve_together(population):
    found = coverage.of_population(population)
    assert list(found) == ["test", "optimise"]
    assert found["test"]["models"] == 8 and found["optimise"]["models"] == 17
    for split, entry in found.items():
        solved = {
            problem
            for name in [*population.names, *population.others]
            if split == "test" or name in population.names
            for own in population.scores[name].get(split, {}).values()
            for problem, score in own.items()
            if score == 1
        }
        assert entry["together"] == len(solved)


def test_shares_are_exact_for_sums_of_experts():
    slots = [
        MatrixSlot("model.layers.1.a.weight", 0, 2, 2),
        MatrixSlot("model.layers.0.a.weight", 4, 2, 1),
        MatrixSlot("lm_head.weight", 6, 2, 1),
    ]
    basis = types.SimpleNamespace(
        layout=slots,
        num_experts=2,
        experts_of=np.array([0, 0, 1, 1, 0, 1, 0, 1]),
        singular_values=np.array([3.0, 1.0, 2.0, 1.0, 4.0, 0.0, 1.0, 2.0]),
    )
    genome = Genome(basis.singular_values * [0.5, 0.5, 2, 2, 1, 1, -1, 0], np.ones(2))
    found = shares.layer_shares(basis, {"child/1": genome})["child/1"]
    assert found == {
        "layer 0": [1.0, 0.0],  # the second expert does not change it
        "layer 1": [0.5, 2.0],
        "embedding, head": [-1.0, 0.0],
    }
    names = [f"layers.{n}.w" for n in range(10)]
    groups = shares.layer_groups([MatrixSlot(f".{n}", 0, 1, 1) for n in names])
    assert list(dict.fromkeys(groups)) == [
        "layers 0 to 2",
        "layers 3 to 5",
        "layers 6 to 7",
        "layers 8 to 9",
    ]
