"""Writes and reads the files of a scratch folder; part of process 1 (`_first`).

It uses only built-in modules.
"""

import posix

MAX_ENTRIES = 4096  # files and folders in a report
# Time of what is there at the start, so that a listing of it is the same in each run.
START_TIME = 1_672_531_200  # 2023-01-01 00:00 UTC
MAX_DEPTH = 64
MAX_PATH_BYTES = 3900  # the kernel's limit is 4095, with the folder before it
PAGE_BYTES = posix.sysconf("SC_PAGE_SIZE")
READ_FLAGS = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC
FOLDER_FLAGS = READ_FLAGS | posix.O_DIRECTORY
S_IFMT, S_IFDIR, S_IFREG = 0o170000, 0o040000, 0o100000


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


def collect(fd, budget):
    """The files below an open folder, which is closed: (path, content), sorted.

    No other process runs, so the folder does not change. Links are not followed, and
    devices and pipes not opened. An empty folder has a trailing slash and no content.
    Entries are left out if they cannot be read or exceed `MAX_ENTRIES`, `MAX_DEPTH` or
    `budget` bytes of whole memory pages: so every program has a report, whose files fit
    into a scratch folder of `budget` bytes.
    """
    found = []

    def report(path, content):
        nonlocal budget
        size = whole_pages(len(content))
        if len(path) <= MAX_PATH_BYTES and size <= budget and len(found) < MAX_ENTRIES:
            budget -= size
            found.append((path, content))

    def folder(fd, prefix, depth):
        try:
            names = sorted(map(encoded, posix.listdir(fd)))
            if not names and prefix:
                report(prefix, b"")
            for name in names:
                if len(found) == MAX_ENTRIES:
                    break
                try:
                    entry(fd, name, prefix + name, depth)
                except OSError:
                    continue
        finally:
            posix.close(fd)

    def entry(folder_fd, name, path, depth):
        status = posix.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        kind = status.st_mode & S_IFMT
        if kind == S_IFDIR and depth < MAX_DEPTH:
            fd = posix.open(name, FOLDER_FLAGS, dir_fd=folder_fd)
            folder(fd, path + b"/", depth + 1)
        elif kind == S_IFREG and status.st_size <= budget:
            fd = posix.open(name, READ_FLAGS, dir_fd=folder_fd)
            try:
                report(path, read_all(fd))
            finally:
                posix.close(fd)

    folder(fd, b"", 0)
    return found


def whole_pages(size):
    """Bytes that a file of `size` bytes occupies in a memory file system."""
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def encoded(name):
    """A name of a file as bytes."""
    return name.encode("utf-8", "surrogateescape")
