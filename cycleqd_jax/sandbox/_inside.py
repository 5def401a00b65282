"""Reads files of an episode, which are data: no part of their paths may be a link."""

import os
import stat

MOST_BYTES = 2**16


def read_text(root, path):
    """A small text file below a root, in Latin 1; None if it is none."""
    try:
        with open(_open(root, path, os.O_NONBLOCK), "rb") as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read(MOST_BYTES + 1) if regular else b"\0"
    except OSError:
        return None
    return None if len(data) > MOST_BYTES or b"\0" in data else data.decode("latin-1")


def status_of(root, path):
    """The status of a file below a root; None if there is none."""
    try:
        fd = _open(root, path, os.O_PATH)
    except OSError:
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _open(root, path, flags):
    folders = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(root, folders)
    *above, name = path.split("/")
    for part in above:
        try:
            below = os.open(part, folders, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    finally:
        os.close(fd)
