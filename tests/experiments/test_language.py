"""The command on a small run: both modes, resumed, and what can be wrong."""

import json
import pathlib

import numpy as np
import pytest
import toy_world

pytest.importorskip("lm_eval", reason="the extra `language` is not installed")

import language_tasks

from cycleqd_jax.evaluation.local import LocalEvaluator
from cycleqd_jax.models.formats.hf_folder import export_model
from experiments import agent_skills, export, language

TASKS = ["own_group", "own_texts", "own_replies"]
MODELS = ["base", "expert/toy_a", "expert/toy_b", "expert/toy_c", "aggregated"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A finished run, task files, and the settings of the command."""
    folder = tmp_path_factory.mktemp("language")
    run = toy_world.make_world(folder) | {"run_dir": str(folder / "run")}
    run["qd"] = run["qd"] | {"num_generations": 2}
    path = toy_world.write_config(folder / "toy.yaml", run)
    assert agent_skills.main(["--config", str(path)]) == 0
    return folder, {
        "run": str(folder / "run"),
        "tasks": TASKS,
        "include": [str(language_tasks.write_tasks(folder))],
        "engine": {
            "slots": 8,
            "prefill_rows": 4,
            "decode_steps": 4,
            "mode": "factored",
        },
    }


def measure(folder: pathlib.Path, settings: dict, *overrides: str) -> int:
    path = toy_world.write_config(folder / "language.yaml", settings)
    return language.main(["--config", str(path), *overrides])


def scores_of(output: pathlib.Path) -> dict:
    rows = json.loads((output / "language.json").read_text())["scores"]
    return {(row["model"], row["task"], row["metric"]): row["value"] for row in rows}


@pytest.fixture(scope="module")
def factored(world):
    """The folder of the results, of all individuals at once."""
    folder, settings = world
    assert measure(folder, settings) == 0
    return folder / "run" / "language"


def theirs(folder: pathlib.Path, include: str) -> dict:
    """Scores of a model folder by the harness's own `hf` model."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1),
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=include, include_defaults=False),
        bootstrap_iters=0,
    )
    return {
        (task, key.partition(",")[0]): value
        for task, metrics in found["results"].items()
        for key, value in metrics.items()
        if isinstance(value, float)
    }


def test_scores_are_those_of_the_harness(world, factored, tmp_path):
    _, settings = world
    ours = scores_of(factored)
    for name in ("aggregated", "expert/toy_b"):
        target = tmp_path / name.replace("/", "-")
        arguments = ["--individual", name, "--no-adapter", "--to", str(target)]
        assert export.main([settings["run"], *arguments]) == 0
        want = theirs(target, settings["include"][0])
        assert {task for task, _ in want} == {*TASKS, "own_choice", "own_letters"}
        for (task, metric), value in want.items():
            [own] = [
                v
                for (model, t, m), v in ours.items()
                if (model, t, m.partition("[")[0]) == (name, task, metric)
            ]
            assert own == pytest.approx(value, rel=1e-4), (name, task, metric)
    assert len({value for key, value in ours.items() if key[0] == "base"}) > 4


@pytest.mark.parametrize(
    "how",
    [
        "engine.mode=materialised",
        pytest.param("individuals_per_pass=1", marks=pytest.mark.slow),
    ],
)
def test_one_by_one_gives_the_same(world, factored, tmp_path, how):
    folder, settings = world
    few = ["individuals=[base,expert/toy_b]", "tasks=[own_group,own_replies]"]
    assert measure(folder, settings, f"output={tmp_path}", how, *few) == 0
    got, want = scores_of(tmp_path), scores_of(factored)
    assert len({model for model, _, _ in got}) == 2
    assert got == pytest.approx({key: want[key] for key in got}, rel=1e-5)


@pytest.fixture
def asked(monkeypatch):
    """Names of individuals and ids of problems, per call of the evaluator."""
    calls = []
    real = LocalEvaluator.evaluate

    def evaluate(self, individuals, split, **more):
        problems = [p.id for task in self.tasks for p in task.problems(split)]
        calls.append((list(individuals), problems))
        return real(self, individuals, split, **more)

    monkeypatch.setattr(LocalEvaluator, "evaluate", evaluate)
    return calls


def test_individuals_are_asked_once_for_all(world, tmp_path, asked):
    folder, settings = world
    few = ["tasks=[own_choice,own_replies]", "limit=2"]
    assert measure(folder, settings, f"output={tmp_path}", *few) == 0
    names = ("own_choice", "own_replies")
    assert asked == [(MODELS, [f"{name}/0", f"{name}/1"]) for name in names]


def test_what_is_written(factored):
    facts = json.loads((factored / "language.json").read_text())
    assert list(facts["models"]) == sorted(MODELS)
    rows = facts["scores"]
    assert {row["model"] for row in rows} == set(MODELS)
    for row in rows:
        [base] = [
            r["value"]
            for r in rows
            if r["model"] == "base"
            and (r["task"], r["metric"]) == (row["task"], row["metric"])
        ]
        want = row["value"] / base if base else None
        assert row["relative"] == want
        assert row["is_part"] == (row["task"] in ("own_choice", "own_letters"))
        assert row["higher_is_better"] == (row["asked"] != "own_texts")
    assert facts["mean_relative"]["base"] == 1.0


def test_finished_tasks_are_not_asked_again(world, factored, asked, tmp_path, capsys):
    folder, settings = world
    before = {p: p.read_bytes() for p in factored.rglob("*") if p.is_file()}
    capsys.readouterr()
    assert measure(folder, settings) == 0
    assert not asked
    table = capsys.readouterr().out
    assert "own_group" in table and "own_choice" not in table
    assert "exact_match[first-word]" in table
    after = {p: p.read_bytes() for p in factored.rglob("*") if p.is_file()}
    assert after == before
    # Another protocol has scores of its own, and a further model is asked alone.
    few = [f"output={tmp_path}", "limit=2", "tasks=[own_texts]"]
    assert measure(folder, settings, *few) == 0
    assert [names for names, _ in asked] == [MODELS]
    assert measure(folder, settings, *few, f"models={{more: {folder / 'toy_b'}}}") == 0
    assert [names for names, _ in asked] == [MODELS, ["more"]]
    finished = tmp_path / "finished.json"
    finished.write_text(finished.read_text().replace('"task"', '"tusk"', 1))
    assert measure(folder, settings, *few) == 2
    assert "finished.json is damaged" in capsys.readouterr().err


def test_models_by_path(world, factored, tmp_path):
    """A PEFT adapter, and the folder of a whole model."""
    folder, settings = world
    own = {key: settings[key] for key in ("tasks", "include", "engine")}
    own["engine"] = own["engine"] | {"mode": "auto", "length": 512}
    own |= {
        "base_model": str(folder / "base"),
        "models": {"adapter": str(folder / "toy_b"), "copy": str(folder / "base")},
    }
    assert measure(tmp_path, own, f"output={tmp_path / 'out'}") == 0
    ours, run = scores_of(tmp_path / "out"), scores_of(factored)
    pairs = {"base": "base", "adapter": "expert/toy_b", "copy": "base"}
    assert {model for model, _, _ in ours} == set(pairs)
    for (model, task, metric), value in ours.items():
        assert value == pytest.approx(run[pairs[model], task, metric], rel=1e-5)


def test_a_model_that_is_no_fine_tune(world, tmp_path):
    """Another size: measured alone, with the scores that it has as a base."""
    folder, settings = world
    other, rng = tmp_path / "other", np.random.default_rng(1)
    tokenizer = toy_world.small_tokenizer()
    config, weights = toy_world.random_model(tokenizer.vocab_size, rng, hidden_size=32)
    export_model(other, config, weights, tokenizer, "# Another size\n")
    own = {key: settings[key] for key in ("include", "engine")} | {
        "tasks": ["own_texts"],
        "engine": settings["engine"] | {"mode": "auto"},
    }
    both = own | {"base_model": str(folder / "base"), "models": {"one": str(other)}}
    assert measure(tmp_path, both, f"output={tmp_path / 'both'}") == 0
    alone = own | {"base_model": str(other)}
    assert measure(tmp_path, alone, f"output={tmp_path / 'alone'}") == 0
    got, want = scores_of(tmp_path / "both"), scores_of(tmp_path / "alone")
    assert {key[1:]: v for key, v in got.items() if key[0] == "one"} == {
        key[1:]: v for key, v in want.items()
    }
    assert {v for key, v in got.items() if key[0] == "base"} != set(want.values())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["tasks=[own_grop]"], ["'own_grop'", "did you mean own_group", "ls tasks"]),
        (["individuals=[nobody]"], ["'nobody' is no individual of", "expert/toy_a"]),
        (["run=nowhere"], ["nowhere: is not a run folder"]),
        (["base_model=x"], ["run and base_model are both given"]),
        (["models={base: x}"], ["'base'"]),
        (["models={other: nowhere}"], ["nowhere"]),
        (["include=[nowhere]"], ["nowhere is no folder"]),
        (["max_length=16", "tasks=[own_replies]"], ["own_replies", "max_length, 16"]),
        (["engine.length=32"], ["engine.length is 32 tokens", "or more"]),
        (["tusks=[x]"], ["did you mean tasks"]),
        (["engine.slots=0"], ["engine.slots"]),
        (["tasks=[own_code]"], ["own_code runs what the model wrote", "unsafe_code"]),
    ],
)
def test_what_is_wrong_is_said(world, tmp_path, capsys, overrides, words):
    _, settings = world
    assert measure(tmp_path, settings, f"output={tmp_path / 'out'}", *overrides) == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error
    assert "Traceback" not in error


def test_data_that_cannot_be_had_are_named(world, tmp_path, capsys, monkeypatch):
    import datasets

    def load_dataset(*args, **more):
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    _, settings = world
    arguments = [f"output={tmp_path / 'out'}", "tasks=[rte]"]
    assert measure(tmp_path, settings, *arguments) == 2
    error = capsys.readouterr().err
    assert "the data of rte cannot be loaded" in error
    assert "datasets.load_dataset(path='nyu-mll/glue', name='rte')" in error
    assert "Couldn't reach the hub" in error


def test_damaged_data_are_named(world, tmp_path, capsys):
    _, settings = world
    include = language_tasks.write_tasks(tmp_path)
    (tmp_path / "test.jsonl").write_text("{")
    arguments = [f"output={tmp_path / 'out'}", f"include=[{include}]"]
    assert measure(tmp_path, settings, *arguments) == 2
    assert "test.jsonl" in capsys.readouterr().err


def test_without_the_harness_the_extra_is_named(world, tmp_path, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    _, settings = world
    assert measure(tmp_path, settings, f"output={tmp_path / 'out'}") == 2
    assert "pip install 'cycleqd-jax[language]'" in capsys.readouterr().err
