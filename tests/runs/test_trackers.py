"""TensorBoard's files are read back; wandb is a fake here and real where installed."""

import json
import struct
import sys
import types

import pytest
from event_file import events

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.runs import trackers


def scalars(folder):
    return {
        (event.step, value.tag): pytest.approx(value.simple_value)
        for event in events(folder)
        for value in event.summary.value
    }


class FakeRun:
    offline, url = True, None

    def __init__(self, arguments):
        self.arguments = arguments
        self.rows, self.summary, self.defined = [], {}, []
        self.exit_code = None

    def define_metric(self, name, step_metric=None):
        self.defined.append((name, step_metric))

    def log(self, row):
        self.rows.append(row)

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
    monkeypatch.setattr(trackers, "check_logging", lambda to: None)
    return module


def opened(folder, to, notes=None):
    folder.mkdir(exist_ok=True)
    return trackers.open_loggers(
        to,
        folder,
        project="p",
        settings={"seed": 0},
        note=(notes if notes is not None else []).append,
    )


def test_tensorboard_has_what_was_logged(tmp_path):
    with opened(tmp_path, ["tensorboard"]) as logger:
        logger.log({"best/a": 0.25, "coverage/a": 0.5}, 4)
        logger.log({"best/a": 0.75}, 8)
        logger.result({"test/base/mean": 0.125}, 8)
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
    notes = []
    with opened(tmp_path, ["wandb"], notes) as logger:
        logger.log({"best/a": 0.25}, 2)
        logger.log({"best/a": 0.5}, 4)
    with opened(tmp_path, ["wandb"]) as logger:
        for step in (2, 4, 6):  # whoever goes on begins at the first step
            logger.log({"best/a": step / 10}, step)
        logger.result({"test/base/mean": 0.5}, 6)
    first, second = wandb.runs
    assert first.arguments["id"] == second.arguments["id"]
    assert second.arguments["resume"] == "allow"
    assert first.arguments["config"] == {"seed": 0}
    assert [row["step"] for row in first.rows] == [2, 4]
    assert second.rows == [{"best/a": 0.6, "step": 6}]
    assert second.summary == {"test/base/mean": 0.5}
    assert ("*", "step") in first.defined
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "wandb sync" in notes[0]


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

        def gone(row):
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
        trackers.check_logging([name])


def leveldb_records(data):
    """Records of a log that fits one block: checksum, length, type, content."""
    assert len(data) < 2**15
    while data:
        length, kind = struct.unpack("<HB", data[4:7])
        assert kind == 1
        yield data[7 : 7 + length]
        data = data[7 + length :]


def test_the_real_wandb_offline(tmp_path, monkeypatch):
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
                history.append((row["step"], row["best/a"]))
    assert sorted(history) == [(2, 0.2), (4, 0.4), (6, 0.6)]
    assert len(ids) == 1
