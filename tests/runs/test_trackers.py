"""TensorBoard's files are read back; wandb is a fake, and real where installed.

A run logs what its folder keeps, also after a kill and a resume.
"""

import json
import struct
import sys
import types

import pyarrow as pa
import pydantic
import pytest
import toy_world
from event_file import events

from cycleqd_jax import files
from cycleqd_jax.config import LoggingSettings
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.progress import BatchSummary
from cycleqd_jax.runs import trackers
from cycleqd_jax.runs.folder import RunFolder
from experiments import agent_skills

TASKS = toy_world.TASKS[:3]


def scalars(folder):
    return {
        (event.step, value.tag): pytest.approx(value.simple_value)
        for event in events(folder)
        for value in event.summary.value
    }


class FakeRun:
    def __init__(self, arguments):
        self.arguments = arguments
        self.rows, self.summary, self.exit_code = [], {}, None

    def log(self, row, *, step, commit):
        assert commit  # or a killed process loses the row
        self.rows.append((step, row))

    def finish(self, exit_code):
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch):
    """A module in the place of wandb; `runs` are what was started."""
    module = types.ModuleType("wandb")
    module.runs, module.failure = [], None

    class Error(Exception):
        pass

    class CommError(Error):
        pass

    module.errors = types.SimpleNamespace(
        UsageError=type("UsageError", (Error,), {}),
        AuthenticationError=type("AuthenticationError", (CommError,), {}),
        CommError=CommError,
    )
    module.Settings = dict

    def init(**arguments):
        if module.failure is not None:
            raise module.failure
        module.runs.append(FakeRun(arguments))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(trackers, "check_trackers", lambda config: None)
    return module


class Config(pydantic.BaseModel):
    seed: int = 0
    logging: LoggingSettings


def opened(folder, to, notes=None):
    config = Config(logging=LoggingSettings(to=to, project="p"))
    return trackers.Trackers(
        config, folder, [].append if notes is None else notes.append
    )


def test_tensorboard_has_what_was_logged(tmp_path):
    with opened(tmp_path, ["tensorboard"]) as logger:
        logger.log({"best/a": 0.25, "coverage/a": 0.5}, 4)
        logger.log({"best/a": 0.75}, 8)
        logger.summarise({"test/base/mean": 0.125}, 8)
    assert scalars(tmp_path) == {
        (4, "best/a"): 0.25,
        (4, "coverage/a"): 0.5,
        (8, "best/a"): 0.75,
        (8, "test/base/mean"): 0.125,
    }


def test_tensorboard_is_written_at_once_and_anew_at_every_start(tmp_path):
    for _ in range(2):
        with opened(tmp_path, ["tensorboard"]) as logger:
            logger.log({"x": 1.0}, 1)
            assert scalars(tmp_path) == {(1, "x"): 1.0}
    # A viewer that read the old file is told to forget steps from 0 on.
    assert any(e.session_log.status == e.session_log.START for e in events(tmp_path))


def test_wandb_goes_on_with_the_same_run_and_logs_no_step_twice(tmp_path, wandb):
    with opened(tmp_path, ["wandb"]) as logger:
        logger.log({"best/a": 0.25}, 2)
        logger.log({"best/a": 0.5}, 4)
    with opened(tmp_path, ["wandb"]) as logger:
        for step in (2, 4, 6):  # whoever goes on begins at the first step
            logger.log({"best/a": step / 10}, step)
        logger.summarise({"test/base/mean": 0.5}, 6)
    first, second = wandb.runs
    assert first.arguments["id"] == second.arguments["id"]
    assert second.arguments["resume"] == "allow"
    assert first.arguments["config"]["seed"] == 0
    assert first.arguments["project"] == "p"
    assert [step for step, _ in first.rows] == [2, 4]
    assert second.rows == [(6, {"best/a": 0.6})]
    assert second.summary == {"test/base/mean": 0.5}
    assert (first.exit_code, second.exit_code) == (0, 0)


def test_another_folder_is_another_run(tmp_path, wandb):
    for name in ("a", "b"):
        with opened(tmp_path / name, ["wandb"]):
            pass
    assert len({run.arguments["id"] for run in wandb.runs}) == 2


def test_a_run_that_fails_is_marked(tmp_path, wandb):
    with pytest.raises(KeyboardInterrupt), opened(tmp_path, ["wandb"]):
        raise KeyboardInterrupt
    assert wandb.runs[0].exit_code == 1


def test_a_server_that_is_gone_ends_nothing(tmp_path, wandb):
    notes = []
    with opened(tmp_path, ["wandb", "tensorboard"], notes) as logger:
        logger.log({"x": 1.0}, 1)

        def gone(row, **_):
            raise wandb.errors.CommError("server\ngone")

        wandb.runs[0].log = gone
        for step in (2, 3):
            logger.log({"x": 1.0}, step)
    assert {step for step, _ in scalars(tmp_path)} == {1, 2, 3}
    assert [n for n in notes if "server gone" in n] == [notes[-1]]  # said once
    assert wandb.runs[0].exit_code is None  # not waited for either


def test_a_server_that_never_was_ends_nothing(tmp_path, wandb):
    wandb.failure, notes = wandb.errors.CommError("no route"), []
    with opened(tmp_path, ["wandb"], notes) as logger:
        logger.log({"x": 1.0}, 1)
    assert "no route" in notes[0]


@pytest.mark.parametrize("kind", ["UsageError", "AuthenticationError"])
def test_a_missing_log_in_is_asked_for(tmp_path, wandb, kind):
    wandb.failure = getattr(wandb.errors, kind)("No API key configured.")
    with pytest.raises(BadInputError, match="wandb login"):
        with opened(tmp_path, ["wandb"]):
            pass


def test_a_full_disk_ends_nothing(tmp_path, monkeypatch):
    notes = []
    with opened(tmp_path, ["tensorboard"], notes) as logger:

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(
            "tensorboardX.event_file_writer.EventsWriter.write_event", full
        )
        for step in range(20):
            logger.log({"x": 1.0}, step)
    assert len(notes) == 1 and "No space left" in notes[0]


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")]
)
def test_a_missing_package_is_named_with_its_command(
    tmp_path, monkeypatch, name, package
):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, package, raising=False)
    (tmp_path / package).mkdir()  # what it leaves in a working directory is no package
    with pytest.raises(BadInputError, match=f"pip install {package}$"):
        trackers.check_trackers(LoggingSettings(to=[name]))


def leveldb_records(data):
    """Records of a log that fits one block: checksum, length, type, content."""
    assert len(data) < 2**15
    while data:
        length, kind = struct.unpack("<HB", data[4:7])
        assert kind == 1
        yield data[7 : 7 + length]
        data = data[7 + length :]


def test_the_real_wandb_offline(tmp_path, monkeypatch, capfd):
    real = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    for steps in ((2, 4), (2, 4, 6)):
        with opened(tmp_path, ["wandb"]) as logger:
            for step in steps:
                logger.log({"best/a": step / 10}, step)
    real.teardown()
    history, ids = [], set()
    for path in sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb")):
        for data in leveldb_records(path.read_bytes()[7:]):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
            if record.HasField("history"):
                items = record.history.item
                row = {
                    i.key or "/".join(i.nested_key): json.loads(i.value_json)
                    for i in items
                }
                history.append((row["_step"], row["best/a"]))
    assert sorted(history) == [(2, 0.2), (4, 0.4), (6, 0.6)]
    assert len(ids) == 1
    assert "wandb sync" in capfd.readouterr().err  # W&B says how to upload


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
    columns = pa.Table.from_pylist([row(1, 0.0, 1.0), row(2, 0.5, 1.0)]).to_pydict()
    metrics = trackers.batch_metrics(columns, seconds=30.0)
    assert metrics["score/a"] == 0.25 and metrics["score/b"] == 1.0
    assert metrics["score/mean"] == 0.625
    assert metrics["best/a"] == metrics["qd_score/b"] == 0.2
    assert metrics["children_per_minute"] == 4.0
    assert "children_per_minute" not in trackers.batch_metrics(columns, seconds=None)


def test_a_rejected_child_has_no_part_in_the_mean():
    nan = float("nan")
    columns = {"generation": [1, 2], "score/a": [0.5, 1.0], "complete": [True, False]}
    columns |= {"smooth/a": [-0.25, nan], "smooth/b": [nan, nan]}
    columns |= {"retention": [0.75, nan]}
    metrics = trackers.batch_metrics(columns, seconds=None)
    known = {"smooth/a": -0.25, "retention": 0.75}
    assert metrics == {"score/a": 0.5, "score/mean": 0.5} | known


class Recorder:
    """Records the steps that are logged."""

    def __init__(self):
        self.steps = []

    def log(self, metrics, step):
        self.steps.append(step)


def write_batch(folder, first):
    table = pa.Table.from_pylist([row(first, 0.5, 0.5), row(first + 1, 0.5, 0.5)])
    for kind in ("results", "metrics"):
        files.write_table(folder.part(kind, f"batch-{first:06d}"), table)


def summary(generation):
    return BatchSummary(generation, 9, {}, {}, seconds=1.0, children=2)


def test_only_what_is_kept_is_logged_and_what_was_missed_is_made_up_for(tmp_path):
    recorder, notes = Recorder(), []
    with RunFolder(tmp_path, resume=True) as folder:
        (tmp_path / "timing.jsonl").write_text('{"phase": "batch", "generation": 2, ')
        write_batch(folder, 1)  # kept by a process that was killed before it logged
        observer = trackers.RunTracking(recorder, folder, notes.append)
        write_batch(folder, 3)
        write_batch(folder, 5)  # written, but the checkpoint does not count it
        observer.batch(summary(4))
        assert recorder.steps == [2, 4]
        observer.batch(summary(6))
        assert recorder.steps == [2, 4, 6]


def test_a_damaged_table_ends_nothing(tmp_path):
    recorder, notes = Recorder(), []
    with RunFolder(tmp_path, resume=True) as folder:
        write_batch(folder, 1)
        folder.part("metrics", "batch-000001").write_bytes(b"PAR1")
        trackers.RunTracking(recorder, folder, notes.append).batch(summary(2))
    assert not recorder.steps and len(notes) == 1


def test_a_missing_package_is_refused_before_anything_begins(
    config, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(trackers._PACKAGES, "wandb", "not_installed_at_all")
    monkeypatch.delitem(sys.modules, "not_installed_at_all", raising=False)
    arguments = ["--config", str(config), f"run_dir={tmp_path / 'run'}"]
    for flag in ([], ["--dry-run"]):
        assert agent_skills.main([*arguments, "logging.to=[wandb]", *flag]) == 2
        assert "pip install not_installed_at_all" in capsys.readouterr().err
    assert {p.name for p in tmp_path.glob("run/*")} <= {"lock"}
