"""The proof of resuming with few kills, and that it can fail."""

import pathlib
import subprocess
import sys

import pytest
import run_contents

PROOF = pathlib.Path(__file__).with_name("prove_resume.py")
# What every process of the proof does at its start: parts that no checkpoint counts
# stay, so a batch that was killed leaves other metrics behind.
DEFECT = """
import sys
if "experiments.agent_skills" in " ".join(sys.orig_argv):
    from cycleqd_jax.io import files
    atomically = files.write_atomically
    def careless(path, write):
        if not (path.is_file() and path.name.startswith("batch-")):
            return atomically(path, lambda p: (write(p), p.open("ab").write(b"")))
        with path.open("ab") as file:
            file.write(b"again")
    files.write_atomically = careless
    from cycleqd_jax.io.run_folder import RunFolder
    RunFolder.drop_batches_from = lambda self, generation: None
"""


def prove(*arguments: str, python_path: str = "") -> subprocess.CompletedProcess:
    import os

    return subprocess.run(
        [sys.executable, str(PROOF), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": python_path},
        timeout=1800,
    )


def test_differences_are_found():
    want = {"a": b"1", "b": b"2", "c": b"3"}
    assert run_contents.differences(want, dict(want)) == []
    got = {"a": b"1", "b": b"x", "d": b"3"}
    lines = run_contents.differences(got, want)
    assert lines == ["b: other bytes", "c: missing", "d: too many"]


@pytest.mark.slow
def test_a_run_killed_six_times_ends_the_same():
    done = prove("--kills", "6", "--seed", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same after 6 kills" in done.stdout


@pytest.mark.slow
def test_the_proof_fails_where_a_defect_is_planted(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(DEFECT)
    done = prove("--kills", "6", "--seed", "2", python_path=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NOT the same after 6 kills" in done.stdout
