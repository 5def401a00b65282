"""A closed form as a run: tuned, resumed, compared, exported."""

import pathlib

import numpy as np
import pytest
import run_contents
import toy_world

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.merging.genome import base_genome
from cycleqd_jax.merging.individuals import Recipe
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.runs.setup import open_evaluator, prepare
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.tasks.base import Split
from experiments import agent_skills, export


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of a world whose second expert is a full fine-tune."""
    folder = tmp_path_factory.mktemp("merge")
    settings = toy_world.make_world(folder, 2, ("toy_b",))
    settings["engine"]["mode"] = "auto"
    settings["problems"] |= {"optimise": 3, "validate": 3, "test": 2}
    settings["qd"] |= {"num_generations": 4, "children_per_batch": 2}
    settings |= {
        "search": "merge",
        "search_settings": {
            "method": "dare_ties",
            "factors": [0.5, 1.0],
            "densities": [0.2, 0.9],
        },
    }
    return toy_world.write_config(folder / "toy.yaml", settings)


def run(config: pathlib.Path, *settings: str) -> int:
    return agent_skills.main(["--config", str(config), *settings])


@pytest.fixture(scope="module")
def folder(config):
    place = config.parent / "run"
    assert run(config, f"run_dir={place}") == 0
    return place


def test_every_candidate_is_scored_and_the_best_are_validated(folder):
    state = files.read_json(folder / "state.json")
    assert state["evaluated_children"] == 4 and state["result"] == "champion/mean"
    champion = state["aggregation"]["mean"]
    assert champion["individual"].startswith("child/") and champion["beta"] == 1.0
    rows = files.read_table(folder / "results" / "candidates-validate.parquet")
    validated = set(rows.column("individual").to_pylist())
    assert len(validated) == 2  # aggregation.candidates
    names = [model["name"] for model in state["models"]]
    assert names[-2:] == ["best_of_search", "champion/mean"]


@pytest.mark.slow
def test_a_run_in_two_parts_ends_the_same(config, folder, tmp_path):
    place = f"run_dir={tmp_path / 'run'}"
    assert run(config, place, "qd.num_generations=2") == 0
    assert run(config, place, "--resume") == 0
    runs = [run_contents.contents(place) for place in (tmp_path / "run", folder)]
    for one in runs:  # it names the run folder, and the second has its checksum
        del one["config.yaml"], one["SHA256SUMS"]
    assert "results/batch-000003.parquet" in runs[0]
    assert not run_contents.differences(*runs)


def test_an_exported_recipe_gives_the_same_episodes(folder, tmp_path, capsys):
    """Exported by name, loaded back as a model, evaluated again."""
    target = tmp_path / "model"
    arguments = ["--individual", "champion/mean", "--to", str(target)]
    assert export.main([str(folder), *arguments]) == 0
    assert "no adapter: dare_ties changes single elements" in capsys.readouterr().out
    assert not (target / "adapter").exists()
    name = files.read_json(folder / "state.json")["aggregation"]["mean"]["individual"]
    opened = open_run(folder)
    assert isinstance(opened.individual(name), Recipe)
    assert opened.individual("champion/mean") == opened.individual(name)
    base = safetensors.open_folder(folder.parent / "base")
    moved = safetensors.open_folder(target)
    norm = "model.norm.weight"  # of toy_b alone; a share of its elements moves
    changed = np.mean(np.asarray(moved[norm]) != np.asarray(base[norm]))
    assert 0 < changed < 1
    config = load_config(folder / "config.yaml", [f"base_model={target}"], RunConfig)
    prepared = prepare(config, None, Observer())
    with open_evaluator(config, prepared, make_sandbox(config.sandbox)) as evaluator:
        models = {"x": base_genome(prepared.basis)}
        got = evaluator.evaluate(models, Split.VALIDATE).episodes
    rows = files.read_table(folder / "results" / "candidates-validate.parquet")
    want = [row for row in rows.to_pylist() if row["individual"] == name]
    assert [tuple(row["tokens"]) for row in want] == [e.tokens for e in got]
    assert [row["score"] for row in want] == [e.score for e in got]


def test_more_children_than_candidates_are_refused(config, tmp_path, capsys):
    said = []
    for last in (["--dry-run"], []):
        more = [f"run_dir={tmp_path / 'run'}", "qd.num_generations=5", *last]
        assert run(config, *more) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert "qd.num_generations is 5, but search_settings of merge give 4" in said[0]
