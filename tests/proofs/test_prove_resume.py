"""The proof of resuming with few kills, and that it can fail."""

import os
import pathlib
import subprocess
import sys

import pytest
import run_contents

PROOF = pathlib.Path(__file__).with_name("prove_resume.py")
# A search whose draws depend on how often this process has drawn, as they would from a
# generator with a state: two uninterrupted runs are the same, a resumed one is not.
DEFECT = """
import sys
if "experiments.agent_skills" in sys.orig_argv:
    import jax
    from cycleqd_jax import loop
    right, calls = loop.propose, []
    def wrong(archives, bank, basis, run_key, ts, **settings):
        calls.append(ts)
        key = jax.random.fold_in(run_key, len(calls))
        return right(archives, bank, basis, key, ts, **settings)
    loop.propose = wrong
"""


def prove(*arguments: str, python_path: str = "") -> subprocess.CompletedProcess:
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
