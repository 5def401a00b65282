"""A Ray cluster of processes on this machine, and hosts that join and leave it.

Everything has a token and a folder of its own, and is ended by its own process ids.
"""

import contextlib
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

import pytest

SUPPORT = pathlib.Path(__file__).parent
STORE = 80_000_000
# Ray reads the token when it is imported: only these tests may use their clusters.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_MEMORY_MONITOR": "1",
    "RAY_worker_niceness": "0",
    "RAY_health_check_period_ms": "1000",  # a host that left is noticed in seconds
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path]),
}


def needs_ray():
    return pytest.importorskip("ray", reason="the extra ray is not installed")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Host:
    """One raylet with some CPUs; the first is the head."""

    def __init__(self, folder, cpus, address=None):
        where = ["--address", address]
        if address is None:
            port = free_port()
            address = f"127.0.0.1:{port}"
            where = ["--head", "--port", str(port), "--temp-dir", str(folder)]
            where += ["--include-dashboard", "false"]
        self.address = address
        command = [
            *(sys.executable, "-c", "from ray.scripts.scripts import main; main()"),
            *("start", "--block", "--disable-usage-stats", *where),
            *("--node-ip-address", "127.0.0.1", "--num-cpus", str(cpus)),
            *("--object-store-memory", str(STORE)),
        ]
        self._log = open(pathlib.Path(folder) / f"host-{free_port()}.log", "w+")
        self._process = subprocess.Popen(
            command,
            env=os.environ | ENVIRONMENT,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        while "Ray runtime started" not in pathlib.Path(self._log.name).read_text():
            if self._process.poll() is not None:
                raise RuntimeError(pathlib.Path(self._log.name).read_text())
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.1)

    def leave(self):
        """Ends all its processes at once, as a host that is preempted."""
        pids = [self._process.pid]
        for pid in pids:  # what it started is found as the list grows
            pids += _children(pid)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


def _children(parent):
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


@contextlib.contextmanager
def cluster(cpus):
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # sockets need short paths
    head = Host(folder, cpus)
    try:
        yield head
    finally:
        head.leave()
        shutil.rmtree(folder, ignore_errors=True)
