"""Ends this process with SIGKILL at a chosen moment, as kill -9 does."""

import os
import pathlib
import signal
import threading
import time
from typing import Any


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_when_changed(folder: pathlib.Path) -> None:
    """Kills as soon as something new appears in a folder."""
    before = set(os.listdir(folder))
    while not set(os.listdir(folder)) - before:
        time.sleep(0.0001)
    kill()


def arm(owner: Any, name: str, when: str, count: int) -> None:
    """Kills before, amid or after the COUNT-th call of `owner.name`.

    Amid is as soon as the call, a method of what has a `_folder`, has made a file.
    """
    original = getattr(owner, name)
    left = count

    def wrapped(*args, **kwargs):
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            kill()
        if left == 0 and when == "amid":
            folder = args[0]._folder
            threading.Thread(target=kill_when_changed, args=[folder]).start()
        result = original(*args, **kwargs)
        if left == 0 and when == "after":
            kill()
        return result

    setattr(owner, name, wrapped)
