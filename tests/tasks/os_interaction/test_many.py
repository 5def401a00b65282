"""Harmless episodes leave nothing, and there are enough of them in a second."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import cycleqd_jax
from tests.support.benchmark_data import needs_data

pytestmark = needs_data
SCRIPT = pathlib.Path(__file__).with_name("many.py")
PER_CORE = 10  # episodes in a second of processor time


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_nothing_is_left(count):
    """No process, mount, descriptor, thread or file; and verdicts as they should be."""
    package = str(pathlib.Path(cycleqd_jax.__file__).parents[1])
    command = [sys.executable, str(SCRIPT), str(count)]
    environment = os.environ | {"PYTHONPATH": package, "TMPDIR": "/tmp"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=3000
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(json.dumps(found))
    assert found["wrong"] == []
    assert found["left"] == {}
    assert found["children"] == []
    before, after = found["memory_bytes"]
    assert after - before < 2**20 + count * 2**12
    if count > 100:
        assert found["processor_s_each"] < 1 / PER_CORE
