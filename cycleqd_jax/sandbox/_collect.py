"""Files into and out of a scratch folder; part of the supervisor.

Like all of the supervisor it needs nothing but built-in modules (see `_supervisor`).
"""

import posix

MAX_ENTRIES = 4096  # files and folders that are returned
MAX_DEPTH = 64
MAX_PATH_BYTES = 3900  # the kernel takes 4095, and the folder comes before
PAGE_BYTES = posix.sysconf("SC_PAGE_SIZE")
READ_FLAGS = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC
FOLDER_FLAGS = READ_FLAGS | posix.O_DIRECTORY
S_IFMT, S_IFDIR, S_IFREG = 0o170000, 0o040000, 0o100000


def read_all(fd):
    """Everything that can be read from `fd`."""
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
    """Writes (name, content) pairs under the folder `root`, all of them bytes.

    A name that ends with a slash is an empty folder.
    """
    for name, content in files:
        parts = (root + b"/" + name).split(b"/")
        for end in range(root.count(b"/") + 2, len(parts)):
            try:
                posix.mkdir(b"/".join(parts[:end]), 0o755)
            except FileExistsError:
                pass
        if parts[-1]:
            flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_NOFOLLOW
            fd = posix.open(b"/".join(parts), flags, 0o644)
            write_all(fd, content)
            posix.close(fd)


class Collector:
    """Reports the entries of a folder in sorted order, at most so and so many.

    Nothing else runs any more, so nothing changes underneath. Links are not followed,
    devices and pipes not opened, what cannot be read is left out, and so is what is
    beyond `MAX_ENTRIES` entries, `MAX_DEPTH` folders deep or `budget` bytes of whole
    pages: whatever a program made, it gets a report, and what is in it fits into a
    scratch folder of `budget` bytes again.
    """

    def __init__(self, budget, report_fd):
        self.entries_left = MAX_ENTRIES
        self.budget = budget
        self.report_fd = report_fd

    def folder(self, fd, prefix=b"", depth=0):
        """Reports what is below the open folder `fd`, and closes it."""
        try:
            names = first_names(fd)
            if not names and prefix:
                self.report(b"d", prefix, b"")
            for name in names:
                if self.entries_left == 0:
                    break
                try:
                    self.entry(fd, name, prefix + name, depth)
                except OSError:
                    continue
        finally:
            posix.close(fd)

    def entry(self, folder_fd, name, path, depth):
        """Reports one entry of a folder, with what is below it."""
        status = posix.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        kind = status.st_mode & S_IFMT
        if kind == S_IFDIR and depth < MAX_DEPTH:
            fd = posix.open(name, FOLDER_FLAGS, dir_fd=folder_fd)
            self.folder(fd, path + b"/", depth + 1)
        elif kind == S_IFREG and status.st_size <= self.budget:
            fd = posix.open(name, READ_FLAGS, dir_fd=folder_fd)
            try:
                self.report(b"f", path, read_all(fd))
            finally:
                posix.close(fd)

    def report(self, kind, path, content):
        """Writes an entry if it is still within the limits."""
        size = whole_pages(len(content))
        if len(path) <= MAX_PATH_BYTES and size <= self.budget and self.entries_left:
            self.entries_left -= 1
            self.budget -= size
            header = b"%s %d %d\n" % (kind, len(path), len(content))
            write_all(self.report_fd, header + path + content)


def whole_pages(size):
    """What a file of `size` bytes takes in a memory file system."""
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def first_names(folder):
    """At most `MAX_ENTRIES` names in the folder of this descriptor, sorted."""
    names = []
    with posix.scandir(folder) as entries:
        for entry in entries:
            names.append(entry.name.encode("utf-8", "surrogateescape"))
            if len(names) == MAX_ENTRIES:
                break
    return sorted(names)
