"""Every threat, as root and as an ordinary user."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cycleqd_jax

sys.path.insert(0, str(Path(__file__).parent))
from threats import THREATS

DRIVER = Path(__file__).with_name("driver.py")
ORDINARY_UID = "54321"
WHO = ["root", "user"] if os.geteuid() == 0 else ["user"]


def drive(folder: Path, who: str, *names: str) -> dict:
    """The driver's findings as `who`, working in `folder`."""
    uid = ORDINARY_UID if who == "user" and os.geteuid() == 0 else "-"
    work, temporary = folder / "work", folder / "temporary"
    for path in (work, temporary):
        path.mkdir()
        path.chmod(0o777)
    for path in (folder, *folder.parents):  # pytest's folders are closed to others
        if path.owner() == "root" and path != path.parent and uid != "-":
            path.chmod(path.stat().st_mode | 0o111)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(cycleqd_jax.__file__).parents[1]),
        "TMPDIR": str(temporary),
    }
    done = subprocess.run(
        [sys.executable, DRIVER, uid, *names],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=WHO)
def findings(request, tmp_path_factory) -> dict:
    return drive(tmp_path_factory.mktemp(request.param), request.param)


@pytest.mark.parametrize("name", THREATS)
def test_threat_is_reported_as_what_it_was(findings, name):
    assert findings["wrong"][name] == []


def test_nothing_is_left_behind(findings):
    assert findings["left"] == {}


def test_there_are_many_threats():
    assert len(THREATS) >= 40
