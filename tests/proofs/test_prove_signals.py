"""The proof of signals with few of them."""

import pathlib
import subprocess
import sys

import pytest

PROOF = pathlib.Path(__file__).with_name("prove_signals.py")


@pytest.mark.slow
def test_signals_to_every_command():
    done = subprocess.run(
        [sys.executable, str(PROOF), "--step", "2"],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
