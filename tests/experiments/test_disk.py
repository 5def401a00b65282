"""Disks that are full or not writable: a sentence, and nothing is lost."""

import contextlib
import os
import pathlib
import shutil
import subprocess

import pytest
import run_contents
import toy_world

from cycleqd_jax import files
from cycleqd_jax.merging import basis_store
from experiments import agent_skills

COMMAND = ["--config", "toy.yaml", "--resume"]
FULL = OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def finished(toy_settings, tmp_path_factory):
    """The folder with the config of a run that met no such disk."""
    folder = tmp_path_factory.mktemp("finished")
    toy_world.write_config(folder / "toy.yaml", toy_settings)
    with contextlib.chdir(folder):
        assert agent_skills.main(COMMAND) == 0
    return folder


def assert_stopped(capsys, code, *words):
    """Sentences on standard error: what failed, and after a failed run how to go on."""
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.startswith("Failed: " if code == 1 else "Bad input: "), error
    assert error.count("\n") == (2 if code == 1 else 1), error
    assert ("--resume" in error) or code == 2
    for word in words:
        assert word in error


def assert_same(run, finished):
    got = run_contents.contents(run)
    want = run_contents.contents(finished / "runs" / "toy")
    assert not run_contents.differences(got, want)


def fail_at(monkeypatch, owner, name, count, error):
    """From the `count`-th call on, a function writes a little and fails."""
    original, calls = getattr(owner, name), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) >= count:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.slow
def test_a_disk_that_is_full_again_and_again(
    toy_settings, finished, tmp_path, monkeypatch, capsys
):
    """One run, stopped by a full disk at every kind of write in turn."""
    toy_world.write_config(tmp_path / "toy.yaml", toy_settings)
    monkeypatch.chdir(tmp_path)
    timing = tmp_path / "runs" / "toy" / "timing.jsonl"
    for owner, name, count, error, words in [
        (pathlib.Path, "write_bytes", 1, FULL, ["SHA256SUMS"]),
        (pathlib.Path, "write_bytes", 2, FULL, ["config.yaml"]),
        (basis_store, "write_tensors", 1, FULL, ["basis.safetensors"]),
        (pathlib.Path, "write_bytes", 8, FULL, ["results", "make room"]),
        (files, "check_room", 2, FULL, ["checkpoints/2", "make room"]),
        (files, "append_line", 3, files.cannot_write(timing, FULL), ["timing.jsonl"]),
        (files, "write_sealed", 1, files.cannot_write(timing, FULL), ["make room"]),
        (os, "replace", 9, FULL, ["make room"]),
    ]:
        with monkeypatch.context() as patch:
            fail_at(patch, owner, name, count, error)
            assert agent_skills.main(COMMAND) == 1, name
        assert_stopped(capsys, 1, "No space left on device", *words)
    assert agent_skills.main(COMMAND) == 0
    assert_same(tmp_path / "runs" / "toy", finished)


@contextlib.contextmanager
def mounted(folder, *options):
    """A small disk of its own; skips where mounting is not permitted."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder, option):
    command = ["mount", "-o", f"remount,{option}", str(folder)]
    subprocess.run(command, check=True)


@pytest.mark.slow
def test_a_small_disk_that_grows(toy_settings, finished, tmp_path, monkeypatch, capsys):
    """A real full disk, at whatever write happens not to fit."""
    toy_world.write_config(tmp_path / "toy.yaml", toy_settings)
    monkeypatch.chdir(tmp_path)
    run, stopped = tmp_path / "runs" / "toy", 0
    with mounted(run, "size=4k"):
        for size in range(4, 2000, 96):
            remount(run, f"size={size}k")
            code = agent_skills.main(COMMAND)
            if code == 0:
                break
            assert code == 1
            assert_stopped(capsys, 1, "No space left on device", "make room")
            stopped += 1
        assert code == 0 and stopped > 4
        assert_same(run, finished)


@pytest.mark.slow
def test_a_disk_that_can_only_be_read(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(finished / "toy.yaml", tmp_path)
    run = tmp_path / "runs" / "toy"
    with mounted(run, "size=8m"):
        shutil.copytree(finished / "runs" / "toy", run, dirs_exist_ok=True)
        remount(run, "ro")
        assert agent_skills.main(COMMAND) == 2
        assert_stopped(capsys, 2, "runs/toy cannot be written", "Read-only")
        remount(run, "rw")
        assert agent_skills.main(COMMAND) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_must_not_be_written(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "runs" / "toy" / "lock").unlink()
    (tmp_path / "runs" / "toy").chmod(0o555)
    try:
        assert agent_skills.main(COMMAND) == 2
        assert_stopped(capsys, 2, "runs/toy cannot be written", "Permission denied")
    finally:
        (tmp_path / "runs" / "toy").chmod(0o755)
