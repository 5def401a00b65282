"""Starts a private MariaDB and is killed. No test module.

Usage: `private_mariadb.py UID MOMENT`: UID `-` for who we are; MOMENT is `running`, or
how many seconds after the start begins. Prints the user id and, where the server came
up, its processes.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from cycleqd_jax.tasks.dbbench.private_server import PrivateServer


def descendants(pid: int) -> list[int]:
    """All processes below a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def end() -> None:
    """The end that no program can prepare for."""
    os.kill(os.getpid(), signal.SIGKILL)


def end_after(seconds: float) -> None:
    """Ends the process at this moment, with a list of its processes."""
    time.sleep(seconds)
    print(json.dumps({"uid": os.getuid(), "pids": descendants(os.getpid())}))
    sys.stdout.flush()
    end()


def main() -> None:
    """See the module."""
    uid, moment = sys.argv[1:]
    if uid != "-":
        os.setgroups([])
        os.setresgid(int(uid), int(uid), int(uid))
        os.setresuid(int(uid), int(uid), int(uid))
    if moment != "running":
        threading.Thread(target=end_after, args=(float(moment),)).start()
    server = PrivateServer()
    server.address()
    if moment == "running":
        end_after(0)
    time.sleep(60)


if __name__ == "__main__":
    main()
