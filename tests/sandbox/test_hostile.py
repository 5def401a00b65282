"""Every threat, as root and as an ordinary user."""

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

DRIVER = Path(__file__).with_name("driver.py")
ORDINARY_UID = "54321"
WHO = ["root", "user"] if os.geteuid() == 0 else ["user"]


def drive(folder: Path, who: str) -> dict:
    """The driver's findings as `who`, working in `folder`."""
    uid = ORDINARY_UID if who == "user" and os.geteuid() == 0 else "-"
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
        [sys.executable, DRIVER, uid],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=WHO)
def findings(request) -> dict:
    # Not pytest's own folder, which other users cannot enter.
    with tempfile.TemporaryDirectory() as folder:
        yield {"who": request.param, **drive(Path(folder), request.param)}


def test_runs_as_who_it_says(findings):
    assert (findings["uid"] == 0) == (findings["who"] == "root")


@pytest.mark.parametrize("name", THREATS)
def test_threat_is_reported_as_what_it_was(findings, name):
    assert findings["wrong"][name] == []


def test_nothing_is_left_behind(findings):
    assert findings["left"] == {}


def test_there_are_many_threats():
    assert len(THREATS) >= 40
