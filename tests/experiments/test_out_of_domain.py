"""Tasks that a run's search does not see, answered by all compared models."""

import pytest
import toy_task
import toy_world

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.runs import out_of_domain
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.tasks import find_out_of_domain
from cycleqd_jax.tasks.base import Split, TaskSettings
from experiments import agent_skills

FURTHER = "out_of_domain=[toy_task:ToyD]"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    made = toy_world.make_world(tmp_path_factory.mktemp("world"), 2)
    made["problems"] |= {"optimise": 3, "validate": 2, "test": 2}
    return made | {"qd": {"num_generations": 2, "children_per_batch": 2, "bins": 3}}


def run(settings, folder, *overrides):
    config = toy_world.write_config(folder / "config.yaml", settings)
    place = f"run_dir={folder / 'run'}"
    return agent_skills.main(["--config", str(config), place, "--resume", *overrides])


def rows(folder, pattern):
    paths = sorted((folder / "run" / "results").glob(pattern))
    return [row for path in paths for row in files.read_table(path).to_pylist()]


def test_all_models_answer_them_when_the_search_is_over(settings, tmp_path, capsys):
    assert run(settings, tmp_path, FURTHER) == 0, capsys.readouterr().err
    assert "out of domain" in capsys.readouterr().out
    state = files.read_json(tmp_path / "run" / "state.json")
    assert state["out_of_domain"] == {"toy_d": "toy_task:ToyD"}
    assert state["tasks"] == ["toy_a", "toy_b"]
    answered = rows(tmp_path, "out-of-domain-toy_d-*.parquet")
    assert {row["split"] for row in answered} == {"out_of_domain"}
    models = {model["name"] for model in state["models"]}
    assert {row["individual"] for row in answered} == models
    assert {"base", "expert/toy_a", "uniform_merge", "aggregated"} <= models
    others = [row for row in rows(tmp_path, "*.parquet") if row not in answered]
    assert {row["task"] for row in others} == {"toy_a", "toy_b"}
    report = files.read_json(tmp_path / "run" / "report" / "report.json")
    for model in models:
        own = [row["score"] for row in answered if row["individual"] == model]
        entry = report["out_of_domain"]["toy_d"][model]
        assert entry["score"] == pytest.approx(sum(own) / 2) and entry["problems"] == 2
    assert report["out_of_domain"]["toy_d"]["base"]["against_base"] == 0
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert "<h2>Out of domain</h2>" in page


@pytest.mark.slow
def test_a_finished_run_gets_them_later(settings, tmp_path, capsys):
    """They change nothing that was found; a longer search answers them anew."""
    assert run(settings, tmp_path) == 0, capsys.readouterr().err
    before = files.read_json(tmp_path / "run" / "state.json")
    results = {p: p.read_bytes() for p in tmp_path.glob("run/results/*.parquet")}
    assert run(settings, tmp_path, FURTHER) == 0, capsys.readouterr().err
    state = files.read_json(tmp_path / "run" / "state.json")
    assert all(path.read_bytes() == content for path, content in results.items())
    changed = {"out_of_domain", "cost"}
    assert {k: v for k, v in state.items() if k not in changed | {"sha256"}} == {
        k: v for k, v in before.items() if k not in changed | {"sha256"}
    }
    assert state["cost"].pop("test") != before["cost"].pop("test")
    assert state["cost"] == before["cost"]
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("run/results/*-fixed-test*")}
    more = "out_of_domain=[toy_task:ToyD, toy_task:ToyE]"
    assert run(settings, tmp_path, more, "qd.num_generations=4") == 0
    assert kept and all(p.stat().st_mtime_ns == time for p, time in kept.items())
    report = files.read_json(tmp_path / "run" / "report" / "report.json")
    assert list(report["out_of_domain"]) == ["toy_d", "toy_e"]
    # One that is left out again stays in the results, and is not in the report.
    assert run(settings, tmp_path, FURTHER, "qd.num_generations=4") == 0
    report = files.read_json(tmp_path / "run" / "report" / "report.json")
    assert list(report["out_of_domain"]) == ["toy_d"]
    assert rows(tmp_path, "out-of-domain-toy_e-*.parquet")


def test_a_run_that_lacks_answers_is_not_finished(tmp_path):
    """A finished run that got a task, and was killed, would never answer it."""
    asked = []

    class Cached:
        def further(self, part, models, task, split):
            known = folder.part("results", part).is_file()
            assert state.is_file() == (known and len(asked) > 1)
            if not models:
                raise KeyboardInterrupt
            asked.append(part)
            folder.part("results", part).write_text("answers")

    with RunFolder(tmp_path / "run", resume=True) as folder:
        (folder.path / "results").mkdir(exist_ok=True)
        state = folder.path / "state.json"
        task = toy_task.ToyD(TaskSettings(sizes={Split.TEST: 2}))
        state.write_text("{}")
        with pytest.raises(KeyboardInterrupt):
            out_of_domain.measure(Cached(), folder, [task], {"base": None}, {})
        assert len(asked) == 1 and not state.exists()
        two = {"base": None}, {"aggregated": None}
        out_of_domain.measure(Cached(), folder, [task], *two)
        state.write_text("{}")
        out_of_domain.measure(Cached(), folder, [task], *two)
        assert len(asked) == 5 and state.exists()


def config_of(settings, **more):
    return RunConfig.model_validate(settings | more)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"out_of_domain": ["toy_task:ToyA"]}, "which is one of tasks"),
        ({"out_of_domain": ["toy_task:ToyD"] * 2}, "there twice"),
        ({"task_settings": {"humaneval": {}}}, "not one of the tasks"),
    ],
)
def test_wrong_settings_are_refused(settings, more, said):
    with pytest.raises(ValueError, match=said):
        config_of(settings, **more)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"out_of_domain": ["isic2017"]}, "isic2017 is a data set of images"),
        ({"problems": {"test": 0}}, "toy_d has no problems of the split test"),
        ({"out_of_domain": ["nothing"]}, "'nothing' does not exist"),
    ],
)
def test_wrong_tasks_are_refused(settings, more, said):
    config = config_of(settings, **{"out_of_domain": ["toy_task:ToyD"]} | more)
    with pytest.raises(BadInputError, match=said):
        find_out_of_domain(config, ())


def test_missing_data_are_said_before_work_starts(settings, tmp_path, capsys):
    data = f"task_settings={{mbpp: {{data: {tmp_path / 'no.jsonl'}}}}}"
    assert run(settings, tmp_path, "out_of_domain=[mbpp]", data) == 2
    error = capsys.readouterr().err
    assert "task_settings.mbpp.data: expected the file" in error
    assert error.strip().count("\n") == 0
    assert not (tmp_path / "run" / "checkpoints").exists()
