"""Writes the files of a scratch folder; part of process 1 (`_first`).

It uses only built-in modules.
"""

import posix

# Time of what is there at the start, so that a listing of it is the same in each run.
START_TIME = 1_672_531_200  # 2023-01-01 00:00 UTC


def read_all(fd):
    """Reads `fd` to its end."""
    parts = []
    while part := posix.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def write_all(fd, data):
    """Writes all of `data`."""
    view = memoryview(data)
    while view:
        view = view[posix.write(fd, view) :]


def write_files(root, files):
    """Writes (name, content) pairs of bytes under the folder `root`.

    A name that ends with a slash is an empty folder. All of them have the same time,
    also `root` and the folder above it, as a listing shows it.
    """
    made = [root, root + b"/.."]
    for name, content in files:
        parts = (root + b"/" + name).split(b"/")
        for end in range(root.count(b"/") + 2, len(parts)):
            try:
                posix.mkdir(b"/".join(parts[:end]), 0o755)
                made.append(b"/".join(parts[:end]))
            except FileExistsError:
                pass
        if parts[-1]:
            flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_NOFOLLOW
            fd = posix.open(b"/".join(parts), flags, 0o644)
            write_all(fd, content)
            posix.close(fd)
            made.append(b"/".join(parts))
    for path in made:
        posix.utime(path, (START_TIME, START_TIME))
