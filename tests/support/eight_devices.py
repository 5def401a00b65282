"""Runs a script on eight simulated devices."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

SUPPORT = pathlib.Path(__file__).parent


def on_eight_devices(script: pathlib.Path, given: str = "") -> Any:
    """The JSON that a script prints; it gets `given` on its standard input."""
    flags = os.environ.get("XLA_FLAGS", "")
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ
        | {
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=8",
            "JAX_PLATFORMS": "cpu",
            "JAX_DEFAULT_MATMUL_PRECISION": "highest",
            "PYTHONPATH": os.pathsep.join(map(str, (SUPPORT.parents[1], SUPPORT))),
        },
        input=given,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
