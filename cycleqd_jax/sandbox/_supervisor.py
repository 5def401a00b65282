"""Runs one program inside a sandbox, as its process 1.

The sandbox's own Python runs this file, so it needs nothing but the interpreter's
built-in modules (`os` and `signal` would cost milliseconds). It is trusted: it holds
one capability that it takes from the program, hence the kernel lets the program
neither trace it, nor read its memory, nor open its file descriptors, and only the
supervisor can write the report. As process 1 it ignores every signal from inside.

Request (marshal, version 2, from the library): a dictionary. Report (to the library):
one header line `ending code cpu_us`, then each entry as a line
`kind name_bytes content_bytes` (kind: f or d) followed by the name and the content,
then `end 0 0`.
"""

import _signal
import marshal
import posix
import resource
import select
import sys
import time

WORK = b"/box/work"
MAX_ENTRIES = 4096  # files and folders that are returned
MAX_DEPTH = 64
MAX_PATH_BYTES = 3900  # the kernel takes 4095, and the folder comes before
POLL_S = 0.02  # shortest pause between two looks at the CPU time
PAGE_BYTES = posix.sysconf("SC_PAGE_SIZE")
TICK_S = 1 / posix.sysconf("SC_CLK_TCK")
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


def find_command(name, path):
    """The file to execute, or None."""
    if b"/" in name:
        return name
    for folder in path.split(b":"):
        candidate = folder + b"/" + name
        if posix.access(candidate, posix.X_OK) and not is_folder(candidate):
            return candidate
    return None


def is_folder(path):
    """Whether `path` is a folder."""
    return posix.stat(path).st_mode & S_IFMT == S_IFDIR


def lower_limit(number, soft, hard):
    """Sets a resource limit; one that we have ourselves and is lower stays."""
    most = resource.getrlimit(number)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(number, (soft, hard))


def become_program(request, failure_fd):
    """In the child: sets the limits, drops the capability, executes the program."""
    posix.setsid()
    for number in (_signal.SIGPIPE, _signal.SIGCHLD, _signal.SIGINT):
        _signal.signal(number, _signal.SIG_DFL)
    # SIGXFSZ stays ignored, as Python left it: a file that grows too large is an
    # error of that write, which the program can report.
    for number, soft, hard in request["rlimits"]:
        lower_limit(number, soft, hard)
    score = posix.open("/proc/self/oom_score_adj", posix.O_WRONLY)
    posix.write(score, b"1000")
    posix.close(score)
    posix.closerange(3, failure_fd)
    posix.closerange(failure_fd + 1, 4096)
    argv = request["argv"]
    command = find_command(argv[0], request["path"])
    if command is None or not posix.access(command, posix.X_OK) or is_folder(command):
        known = command is not None and posix.access(command, posix.F_OK)
        reason = b"permission denied" if known else b"command not found"
        posix.write(2, b"%s: %s\n" % (argv[0], reason))
        posix._exit(126 if known else 127)
    drop = request["drop_capability"]
    posix.execv(drop[0], [*drop, *argv])


def cpu_of_living():
    """CPU seconds of all other processes here, with what their children used."""
    ticks = 0
    for name in posix.listdir("/proc"):
        if not name.isdecimal() or name == "1":
            continue
        try:
            fd = posix.open(f"/proc/{name}/stat", posix.O_RDONLY)
        except OSError:
            continue
        try:
            # The name in parentheses may hold anything, further parentheses too.
            fields = read_all(fd).rpartition(b")")[2].split()
        except OSError:
            continue
        finally:
            posix.close(fd)
        ticks += sum(int(field) for field in fields[11:15])
    return ticks * TICK_S


def cpu_of_reaped():
    """CPU seconds of all processes that have ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def reap(main_pid):
    """Waits for all that has ended; the status of the main program or None."""
    main_status = None
    while True:
        try:
            pid, status = posix.waitpid(-1, posix.WNOHANG)
        except ChildProcessError:
            return main_status
        if pid == 0:
            return main_status
        if pid == main_pid:
            main_status = status


def kill_all():
    """Ends every other process of this namespace and waits for it."""
    while True:
        try:
            posix.kill(-1, _signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            posix.waitpid(-1, 0)
        except ChildProcessError:
            return


def watch(main_pid, wake_fd, stop_fd, cpu_s, wall_s):
    """Waits until the program ends or a limit stops it: (reason, raw status)."""
    cores = len(posix.sched_getaffinity(0))
    start = time.monotonic()
    # No CPU limit can be reached sooner than all cores together could.
    next_look = start + max(POLL_S, cpu_s / cores)
    poller = select.poll()
    poller.register(wake_fd, select.POLLIN)
    poller.register(stop_fd, select.POLLIN)
    while True:
        status = reap(main_pid)
        if status is not None:
            return "ended", status
        now = time.monotonic()
        if now >= start + wall_s:
            return "wall", 0
        if now >= next_look:
            left_s = cpu_s - cpu_of_reaped() - cpu_of_living()
            if left_s <= 0:
                return "cpu", 0
            next_look = now + max(POLL_S, left_s / cores)
        pause_s = min(next_look, start + wall_s) - now
        for fd, _ in poller.poll(pause_s * 1000 + 1):
            if fd == stop_fd:  # closed by the library, or the library is gone
                return "stopped", 0
            posix.read(wake_fd, 4096)


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


def main(request_fd, report_fd, stop_fd):
    """One program, from request to report."""
    wake_fd, ring_fd = posix.pipe()
    posix.set_blocking(wake_fd, False)
    posix.set_blocking(ring_fd, False)
    _signal.set_wakeup_fd(ring_fd, warn_on_full_buffer=False)
    _signal.signal(_signal.SIGCHLD, lambda *_: None)
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # else it would be an exception
    posix.umask(0o022)
    request = marshal.loads(read_all(request_fd))
    work_fd = posix.open(WORK, FOLDER_FLAGS)  # the program may move or replace it
    write_files(WORK, request["files"])
    failure_read, failure_write = posix.pipe2(posix.O_CLOEXEC)
    main_pid = posix.fork()
    if main_pid == 0:
        try:
            become_program(request, failure_write)
        except (OSError, ValueError) as error:
            write_all(failure_write, repr(error).encode())
        finally:  # only reached when nothing was executed
            write_all(failure_write, b" in the child")
            posix._exit(1)
    posix.close(failure_write)
    limits = request["cpu_s"], request["wall_s"]
    reason, status = watch(main_pid, wake_fd, stop_fd, *limits)
    kill_all()
    if failure := read_all(failure_read):
        raise RuntimeError(f"the program was not started: {failure.decode()}")
    cpu_s = cpu_of_reaped()
    if cpu_s >= request["cpu_s"]:
        reason = "cpu"
    if reason == "ended":
        signalled = status & 0x7F
        reason = "signalled" if signalled else "exited"
        status = signalled or status >> 8
    header = b"%s %d %d\n" % (reason.encode(), status, int(cpu_s * 1e6))
    write_all(report_fd, header)
    if request["collect"]:
        Collector(request["collect_bytes"], report_fd).folder(work_fd)
    write_all(report_fd, b"end 0 0\n")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:4]))
    posix._exit(0)  # without the time that Python takes to clean up
