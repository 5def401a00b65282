"""Diverse individuals on `test`: what a population solves together."""

import pytest
import toy_world

from cycleqd_jax import files
from cycleqd_jax.runs.diverse import choose
from cycleqd_jax.study.population import diverse
from experiments import agent_skills


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    made = toy_world.make_world(tmp_path_factory.mktemp("world"), 2)
    made["problems"] |= {"optimise": 6, "validate": 2, "test": 4}
    return made | {"qd": {"num_generations": 4, "children_per_batch": 2, "bins": 9}}


def run(settings, folder, *overrides):
    config = toy_world.write_config(folder / "config.yaml", settings)
    place = f"run_dir={folder / 'run'}"
    return agent_skills.main(["--config", str(config), place, "--resume", *overrides])


def played(folder):
    paths = folder.glob("run/results/population-*-test.parquet")
    found = [row for path in paths for row in files.read_table(path).to_pylist()]
    assert {row["split"] for row in found} <= {"test"}
    return sorted({row["individual"] for row in found})


def chosen_children(folder, count):
    """The children among the diverse individuals; experts play `test` in any case."""
    chosen = diverse(folder / "run", count)
    return sorted(name for name in chosen if name.startswith("child/"))


def report(folder):
    return files.read_json(folder / "run" / "report" / "report.json")


def test_a_finished_run_gets_a_population_later(settings, tmp_path, capsys):
    """It changes nothing that was found, and may have another size later."""
    assert run(settings, tmp_path) == 0, capsys.readouterr().err
    before = files.read_json(tmp_path / "run" / "state.json")
    results = {p: p.read_bytes() for p in tmp_path.glob("run/results/*.parquet")}
    tested = report(tmp_path)["coverage"]["test"]["models"]
    assert before["population"] == 0 and played(tmp_path) == []

    assert run(settings, tmp_path, "population=5") == 0, capsys.readouterr().err
    assert all(path.read_bytes() == content for path, content in results.items())
    state = files.read_json(tmp_path / "run" / "state.json")
    assert state["population"] == 5
    same = ("models", "result", "aggregation", "state_fingerprint", "search")
    assert all(state[key] == before[key] for key in same)
    children = chosen_children(tmp_path, 5)
    assert children and played(tmp_path) == children
    found = report(tmp_path)["coverage"]["test"]
    assert tested < found["models"] <= tested + len(children)
    assert found["best"] <= found["together"] <= found["problems"] == 8
    assert 1 <= len(found["cover"]) <= found["models"]
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert f"the {found['models']} models with results" in page

    assert run(settings, tmp_path, "population=2") == 0
    assert played(tmp_path) == chosen_children(tmp_path, 2)
    # A search that goes on chooses anew.
    assert run(settings, tmp_path, "population=2", "qd.num_generations=6") == 0
    assert played(tmp_path) == chosen_children(tmp_path, 2)


def test_the_first_has_the_best_mean_and_others_add_most(tmp_path, monkeypatch):
    rows = {"a": "110", "b": "101", "c": "011", "d": "110", "e": None}
    scores = {
        name: {"optimise": {"task": {str(i): float(x) for i, x in enumerate(text)}}}
        if text
        else {"test": {"task": {"0": 1.0}}}
        for name, text in rows.items()
    }
    scores["c"]["optimise"]["task"]["3"] = 1.0
    monkeypatch.setattr(
        "cycleqd_jax.runs.diverse.reading.read_scores", lambda run, names: scores
    )
    assert choose(tmp_path, rows, 2) == ["c", "a"]
    assert sorted(choose(tmp_path, rows, 9)) == ["a", "b", "c", "d"]
