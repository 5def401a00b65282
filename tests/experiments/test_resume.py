"""A run that is killed again and again ends like one that never was, byte for byte."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest
import run_contents
import signalled
import toy_world

TESTS = pathlib.Path(__file__).parents[1]
MOMENTS = [
    ("experts written", 1),
    ("checksums half written", 7),
    ("checkpoint half written", 1),
    ("batch evaluated", 1),
    ("report half written", 1),
]
MORE_MOMENTS = [
    ("results written", 1),
    ("metrics half written", 8),
    ("checkpoint written", 1),
    ("state written", 1),
]


def start(folder: pathlib.Path, *command: str) -> subprocess.CompletedProcess:
    paths = [
        str(TESTS / "support"),
        str(TESTS.parent),
        os.environ.get("PYTHONPATH", ""),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def uninterrupted(toy_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    toy_world.write_config(folder / "toy.yaml", toy_settings)
    done = start(folder, "-m", "experiments.agent_skills", "--config", "toy.yaml")
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "toy"


@pytest.mark.parametrize(
    "moments", [MOMENTS, pytest.param(MORE_MOMENTS, marks=pytest.mark.slow)]
)
def test_killed_and_resumed(toy_settings, uninterrupted, tmp_path, moments):
    toy_world.write_config(tmp_path / "toy.yaml", toy_settings)
    driver = str(TESTS / "support" / "kill_driver.py")
    arguments = ["--config", "toy.yaml", "--resume"]
    for moment, count in moments:
        killed = start(tmp_path, driver, moment, str(count), *arguments)
        assert killed.returncode == -signal.SIGKILL, (moment, killed.stderr)
    done = start(tmp_path, "-m", "experiments.agent_skills", *arguments)
    assert done.returncode == 0, done.stderr
    got = run_contents.contents(tmp_path / "runs" / "toy")
    assert not run_contents.differences(got, run_contents.contents(uninterrupted))


RETAINING = ("retention={passages: 3, max_bytes: 150, descriptor: true}",
             "engine.length=96", "qd.num_generations=4")  # fmt: skip


@pytest.mark.slow
def test_killed_with_retention_as_a_behaviour_and_resumed(toy_settings, tmp_path):
    """Twice killed, once amid the set-up and once between the parts of a batch."""
    driver = str(TESTS / "support" / "kill_driver.py")
    command, found = ["-m", "experiments.agent_skills"], []
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
        toy_world.write_config(tmp_path / name / "toy.yaml", toy_settings)
    arguments = ["--config", "toy.yaml", "--resume", *RETAINING]
    for moment, count in (("experts written", 1), ("log-probabilities written", 2)):
        killed = start(tmp_path / "parts", driver, moment, str(count), *arguments)
        assert killed.returncode == -signal.SIGKILL, (moment, killed.stderr)
    for name in ("whole", "parts"):
        done = start(tmp_path / name, *command, *arguments)
        assert done.returncode == 0, done.stderr
        found.append(run_contents.contents(tmp_path / name / "runs" / "toy"))
    assert not run_contents.differences(*found)
    assert "logprobs/batch-000003.parquet" in found[0]


def test_signals_end_cleanly_and_say_how_to_resume(toy_settings, tmp_path):
    settings = toy_settings | {"qd": {"num_generations": 500, "children_per_batch": 2}}
    toy_world.write_config(tmp_path / "toy.yaml", settings)
    command = ["-m", "experiments.agent_skills", "--config", "toy.yaml", "--resume"]
    for words, number in [
        ("", signal.SIGTERM),  # the first line, before it loads
        ("child 4/", signal.SIGINT),
    ]:
        with signalled.start("-u", *command, folder=tmp_path) as process:
            for line in process.stdout:
                if words in line:
                    break
            process.send_signal(number)
            try:
                _, error = process.communicate(timeout=300)
            finally:
                process.kill()
        assert not signalled.wrong_end(process, error, number), error
        assert "go on with: " in error and "--resume" in error


def test_two_processes_on_one_folder_and_a_stale_lock(uninterrupted):
    from cycleqd_jax.errors import BadInputError
    from cycleqd_jax.runs.folder import RunFolder

    # The lock file of the finished process is still there, and in nobody's way.
    assert (uninterrupted / "lock").is_file()
    with RunFolder(uninterrupted, resume=True):
        with pytest.raises(BadInputError, match=f"process {os.getpid()}"):
            RunFolder(uninterrupted, resume=True)
    RunFolder(uninterrupted, resume=True).close()
