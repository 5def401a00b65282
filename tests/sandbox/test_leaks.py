"""Harmless programs leave nothing behind, however many were run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from footprint import WHO, children, drive, state

LEAKS = Path(__file__).with_name("leaks.py")
MOST_GROWTH = 4 * 2**20  # bytes of our own memory: noise of the allocator, no trend


def check(who: str, runs: int) -> None:
    said = drive(LEAKS, who, str(runs), timeout_s=60 + runs * 0.5)
    print(said)  # the numbers, with `pytest -s`
    found = json.loads(said)
    assert found["runs"] == runs
    assert (found["uid"] == 0) == (who == "root")
    assert found["wrong"] == []
    assert found["left"] == {}
    assert found["children"] == []
    before, after = found["memory_bytes"]
    assert after - before < MOST_GROWTH


@pytest.mark.parametrize("who", WHO)
def test_hundreds_of_runs_leak_nothing(who):
    check(who, 200)


def test_a_leak_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = state()
    with (tmp_path / "file").open("w"), subprocess.Popen(["sleep", "1000"]) as child:
        after = state()
        mine = [line for line in children() if f"/proc/{child.pid}/" in line]
        child.kill()
    changed = {name for name in after if after[name] != before[name]}
    assert {"descriptors", "files"} <= changed
    assert len(mine) == 1


@pytest.mark.slow
@pytest.mark.parametrize("who", WHO)
def test_ten_thousand_runs_leak_nothing(who):
    check(who, 10_000)
