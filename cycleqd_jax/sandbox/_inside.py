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
    """A small text file and those of the folder `path`.d, joined; None if one is none.

    Both may be missing.
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
    there = [] if resolved_status(f"{root}/{{}}".format, path) is None else [path]
    texts = [
        read_text(root, name) for name in (*there, *(f"{path}.d/{n}" for n in names))
    ]
    return None if None in texts or len(names) > _MOST_FILES else "\n".join(texts)


def resolved_status(place, path):
    """The status of what a path leads to, as in a root of its own; None if nothing.

    Args:
      place: where a path below that root, without links, can be looked at from here.
      path: from the root. Its links are followed inside, at most 40.
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
