"""Harmless episodes leave nothing, and there are enough of them in a second."""

import json
import pathlib
import sys

import pytest

from tests.support.benchmark_data import needs_data

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "sandbox"))
from footprint import WHO, drive

pytestmark = needs_data
SCRIPT = pathlib.Path(__file__).with_name("many.py")
PER_CORE = 10  # episodes in a second of processor time


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("who", WHO)
def test_nothing_is_left(who, count):
    """No process, mount, descriptor, thread or file; and verdicts as they should be."""
    found = json.loads(drive(SCRIPT, who, str(count), timeout_s=3000))
    print(json.dumps(found))
    assert found["wrong"] == []
    assert not any(found["left"].values())  # others may take theirs away meanwhile
    assert found["children"] == []
    before, after = found["memory_bytes"]
    assert after - before < 2**20 + count * 2**12
    if count > 100:
        assert found["processor_s_each"] < 1 / PER_CORE
