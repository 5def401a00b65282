"""What a run logs is what its folder keeps, also when it was cut short and goes on."""

import json
import sys

import pytest
import toy_world
from event_file import events

from cycleqd_jax import files
from cycleqd_jax.progress import BatchSummary, Observer
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.run_log import LoggingObserver, batch_metrics
from experiments import agent_skills

TASKS = toy_world.TASKS[:3]


@pytest.fixture(scope="module")
def config(toy_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logged")
    settings = toy_settings | {
        "run_dir": str(folder / "run"),
        "logging": {"to": ["tensorboard"]},
    }
    return toy_world.write_config(folder / "toy.yaml", settings)


@pytest.fixture(scope="module")
def run(config):
    """A run of two children that went on to six."""
    arguments = ["--config", str(config), "--resume"]
    for children in (2, 6):
        more = f"qd.num_generations={children}"
        assert agent_skills.main([*arguments, more]) == 0
    return config.parent / "run"


def test_a_run_that_went_on_has_every_batch_once(run):
    found = {
        (event.step, value.tag): value.simple_value
        for event in events(run)
        for value in event.summary.value
    }
    tags = sorted(
        (event.step, value.tag)
        for event in events(run)
        for value in event.summary.value
    )
    assert tags == sorted(found)  # none twice
    for path in sorted((run / "metrics").glob("*.parquet")):
        last = files.read_table(path).to_pylist()[-1]
        for task in TASKS:
            for kind in ("best", "coverage", "qd_score"):
                name = f"{kind}/{task}"
                assert found[last["generation"], name] == pytest.approx(last[name])
        assert found[last["generation"], "children_per_minute"] > 0
    assert {step for step, tag in found if tag == "score/mean"} == {2, 4, 6}


def test_the_comparison_is_logged_as_the_report_has_it(run):
    report = json.loads((run / "report" / "report.json").read_text())["models"]
    found = {
        value.tag: value.simple_value
        for event in events(run)
        for value in event.summary.value
        if event.step == 6
    }
    for model in ("base", "aggregated", "best_of_archive", "scaled_merge"):
        for split in ("optimise", "test"):
            for task in (*TASKS, "mean"):
                logged = found[f"{split}/{model}/{task}"]
                assert logged == pytest.approx(report[model][split][task])


def row(t, a, b):
    scores = {"score/a": a, "score/b": b}
    archives = {f"{kind}/{task}": t / 10 for kind in ("best", "coverage", "qd_score")
                for task in "ab"}  # fmt: skip
    return {"generation": t, "individual": f"child/{t}"} | scores | archives


def test_metrics_of_a_batch():
    metrics = batch_metrics([row(1, 0.0, 1.0), row(2, 0.5, 1.0)], seconds=30.0)
    assert metrics["score/a"] == 0.25 and metrics["score/b"] == 1.0
    assert metrics["score/mean"] == 0.625
    assert metrics["best/a"] == metrics["qd_score/b"] == 0.2
    assert metrics["children_per_minute"] == 4.0
    assert "children_per_minute" not in batch_metrics([row(1, 0, 1)], seconds=None)


class Recorder(Observer):
    """Records what is logged and what is said."""

    def __init__(self):
        self.steps, self.notes, self.heard = [], [], []

    def note(self, text):
        self.notes.append(text)

    def batch(self, summary):
        self.heard.append(summary.generation)

    def log(self, metrics, step):
        self.steps.append(step)


def write_batch(folder, first):
    import pyarrow as pa

    table = pa.Table.from_pylist([row(first, 0.5, 0.5), row(first + 1, 0.5, 0.5)])
    for kind in ("results", "metrics"):
        files.write_table(folder.part(kind, f"batch-{first:06d}"), table)


def summary(generation):
    return BatchSummary(generation, 9, {}, {}, seconds=1.0, children=2)


def test_only_what_is_kept_is_logged_and_what_was_missed_is_made_up_for(tmp_path):
    recorder = Recorder()
    with RunFolder(tmp_path, resume=True) as folder:
        (tmp_path / "timing.jsonl").write_text('{"phase": "batch", "generation": 2, ')
        write_batch(folder, 1)  # kept by a process that was killed before it logged
        observer = LoggingObserver(recorder, recorder, folder)
        write_batch(folder, 3)
        write_batch(folder, 5)  # written, but the checkpoint does not count it
        observer.batch(summary(4))
        assert recorder.steps == [2, 4]
        observer.batch(summary(6))
        assert recorder.steps == [2, 4, 6]
        assert recorder.heard == [4, 6]


def test_a_damaged_table_ends_nothing(tmp_path):
    recorder = Recorder()
    with RunFolder(tmp_path, resume=True) as folder:
        write_batch(folder, 1)
        folder.part("metrics", "batch-000001").write_bytes(b"PAR1")
        LoggingObserver(recorder, recorder, folder).batch(summary(2))
    assert recorder.heard == [2] and len(recorder.notes) == 1


def test_a_missing_package_is_refused_before_anything_begins(
    config, tmp_path, capsys, monkeypatch
):
    from cycleqd_jax.runs import trackers

    monkeypatch.setitem(trackers._PACKAGES, "wandb", "not_installed_at_all")
    monkeypatch.delitem(sys.modules, "not_installed_at_all", raising=False)
    arguments = ["--config", str(config), f"run_dir={tmp_path / 'run'}"]
    for flag in ([], ["--dry-run"]):
        assert agent_skills.main([*arguments, "logging.to=[wandb]", *flag]) == 2
        assert "pip install not_installed_at_all" in capsys.readouterr().err
    assert {p.name for p in tmp_path.glob("run/*")} <= {"lock"}
