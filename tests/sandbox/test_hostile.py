"""Every threat, as root and as an ordinary user; and that its check can fail."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from footprint import WHO, drive
from threats import THREATS
from weakened import WEAKENINGS

DRIVER = Path(__file__).with_name("driver.py")


def findings_of(who: str, weakening: str = "-", *threats: str) -> dict:
    """What the driver found as `who`."""
    return json.loads(drive(DRIVER, who, weakening, *threats, timeout_s=400))


@pytest.fixture(scope="module", params=WHO)
def findings(request) -> dict:
    return {"who": request.param, **findings_of(request.param)}


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
    findings = findings_of("user", name, *weakening.flagged)
    missed = {threat for threat, wrong in findings["wrong"].items() if not wrong}
    assert missed == set(weakening.stays)
    assert set(findings["left"]) == set(weakening.left)
