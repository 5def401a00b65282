"""Reads files of an episode, which are data: no link of it leads to the machine's."""

import os
import stat

MOST_BYTES = 2**16
_MOST_FILES = 64
_MOST_LINKS = 40  # as in the kernel


def read_text(root, path):
    """A small text file below a root, in Latin 1; None if it is none."""
    try:
        with open(_open(root, path, os.O_NONBLOCK), "rb") as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read(MOST_BYTES + 1) if regular else b"\0"
    except OSError:
        return None
    return None if len(data) > MOST_BYTES or b"\0" in data else data.decode("latin-1")


def read_folder_texts(root, path):
    """The text of a small file and of those in the folder `path`.d, in Latin 1.

    Args:
      root: folder above it.
      path: of the file from there. It and the folder may be missing.

    Returns:
      The texts, joined; None if one is no text, a link leads to it, or they are many.
    """
    try:
        fd = _open(root, f"{path}.d", os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        names = []
    except OSError:
        return None
    else:
        try:
            names = sorted(os.listdir(fd))[: _MOST_FILES + 1]
        finally:
            os.close(fd)
    found = resolved_status(lambda inside: f"{root}/{inside}", path)
    there = [] if found is None else [path]
    texts = [
        read_text(root, name) for name in (*there, *(f"{path}.d/{n}" for n in names))
    ]
    return None if None in texts or len(names) > _MOST_FILES else "\n".join(texts)


def resolved_status(place, path):
    """The status of the file that a path leads to, seen from a root of its own.

    Args:
      place: maps a path from that root, which has no links, to a path of this process.
      path: from the root. At most 40 links are followed, never out of the root.

    Returns:
      The status, or None if there is no such file.
    """
    left, done, links = path.split("/")[::-1], [], 0
    try:
        while left:
            part = left.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = done[:-1]
                continue
            here = place("/".join([*done, part]))
            if not os.path.islink(here):
                done.append(part)
                continue
            links += 1
            target = os.readlink(here)
            if links > _MOST_LINKS:
                return None
            done = [] if target.startswith("/") else done
            left += target.split("/")[::-1]
        return os.lstat(place("/".join(done)))
    except (OSError, ValueError):
        return None


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
