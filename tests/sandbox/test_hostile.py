"""Every threat, as root and as an ordinary user; and that its check can fail."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import cycleqd_jax

sys.path.insert(0, str(Path(__file__).parent))
from threats import THREATS
from weakened import WEAKENINGS

DRIVER = Path(__file__).with_name("driver.py")
ORDINARY_UID = "54321"
AS_ROOT = os.geteuid() == 0
WHO = ["root", "user"] if AS_ROOT else ["user"]


def drive(who: str, weakening: str = "-", *threats: str) -> dict:
    """The driver's findings as `who`."""
    command = [sys.executable, DRIVER, "-", weakening, *threats]
    if AS_ROOT:
        # What others mount meanwhile is not of interest.
        command = ["unshare", "--mount", "--propagation", "private", "--", *command]
    if AS_ROOT and who == "user":
        command[command.index(DRIVER) + 1] = ORDINARY_UID
    # Not pytest's own folder, which other users cannot enter.
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top)
        folder.chmod(0o755)
        work, temporary = folder / "work", folder / "temporary"
        for path in (work, temporary):
            path.mkdir()
            path.chmod(0o777)
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(cycleqd_jax.__file__).parents[1]),
            "TMPDIR": str(temporary),
        }
        done = subprocess.run(
            command,
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=WHO)
def findings(request) -> dict:
    return {"who": request.param, **drive(request.param)}


def test_runs_as_who_it_says(findings):
    assert (findings["uid"] == 0) == (findings["who"] == "root")


@pytest.mark.parametrize("name", THREATS)
def test_threat_is_reported_as_what_it_was(findings, name):
    assert findings["wrong"][name] == []


def test_nothing_is_left_behind(findings):
    assert findings["left"] == {}


def test_there_are_many_threats():
    assert len(THREATS) >= 40


@pytest.mark.parametrize("name", WEAKENINGS)
def test_a_weakened_sandbox_is_found_out(name):
    weakening = WEAKENINGS[name]
    findings = drive("user", name, *weakening.flagged)
    missed = {threat for threat, wrong in findings["wrong"].items() if not wrong}
    assert missed == set(weakening.stays)
    assert set(findings["left"]) == set(weakening.left)
