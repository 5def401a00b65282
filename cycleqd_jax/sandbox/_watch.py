"""What a program's processes use together, and when to stop them.

Part of the supervisor; it needs nothing but built-in modules (see `_supervisor`).
The kernel limits each process by itself (`setrlimit`); what is only limited for all
together is looked at here, every `POLL_S` seconds: CPU time, memory, number of files.
"""

import _signal
import posix
import resource
import select
import time

from cycleqd_jax.sandbox._collect import PAGE_BYTES, read_all

POLL_S = 0.02  # pause between two looks
POLL_COST = 20  # or so many times what the last look took, if that is longer
MAX_POLL_S = 0.2  # but never more
# So many looks in a row must find too much memory: between `vfork` and `exec` a child
# has all the memory of its parent, which then seems to be there twice.
MEMORY_LOOKS = 3
TICK_S = 1 / posix.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat after the name in parentheses, which may hold anything.
STATE, PARENT, UTIME, STIME, CUTIME, CSTIME = 0, 1, 11, 12, 13, 14
THREADS, STARTED, SIZE, RESIDENT = 17, 19, 20, 21


class Processes:
    """All processes of this namespace but the supervisor, as of the last look.

    A process's CPU time goes to whoever waits for it, or to nobody if its parent
    ignores SIGCHLD. So the own time of each is remembered, and of those that are gone
    either what was passed on counts or what was seen, whichever is more. Neither can
    be more than what was used, and a program gains nothing by ignoring its children
    but what they use between their last look and their end.

    Attributes:
      cpu_s: seconds of CPU time, of all that ran since the start.
      resident_bytes: memory, what several processes share counted for each of them.
    """

    def __init__(self):
        self.cpu_s = 0.0
        self.resident_bytes = 0
        self._own: dict[tuple[bytes, bytes], float] = {}  # (pid, start) -> seconds
        self._gone_s = 0.0
        self._stats: dict[bytes, list[bytes]] = {}  # pid -> fields
        self._memory: dict[bytes, tuple[str, int]] = {}  # pid -> where, pages

    def look(self):
        """Brings the attributes up to date."""
        own = {}
        passed_on_s = 0.0
        self._stats.clear()
        self._memory.clear()
        for pid in _pids():
            text = _read(f"/proc/{pid}/stat")
            if text is None:
                continue
            fields = text.rpartition(b")")[2].split()
            own_s = (int(fields[UTIME]) + int(fields[STIME])) * TICK_S
            if own_s == 0.0:
                own_s = _short_time(pid)
            own[pid, fields[STARTED]] = own_s
            passed_on_s += (int(fields[CUTIME]) + int(fields[CSTIME])) * TICK_S
            place, pages = f"/proc/{pid}", int(fields[RESIDENT])
            if fields[STATE] == b"Z" and int(fields[THREADS]) > 1:
                place, pages = _of_other_threads(pid)
            self._stats[pid.encode()] = fields
            self._memory[pid.encode()] = place, pages
        for key, own_s in self._own.items():
            if key not in own:
                self._gone_s += own_s
        self._own = own
        passed_on_s += cpu_of_reaped()
        self.cpu_s = sum(own.values()) + max(passed_on_s, self._gone_s)
        pages = sum(pages for _, pages in self._memory.values())
        self.resident_bytes = pages * PAGE_BYTES

    def shared_bytes(self):
        """Memory, with each process's share of what it has in common with others."""
        total = twice = 0
        for pid, (place, pages) in self._memory.items():
            size = _share(place)
            if size is None:  # it forbids to be looked at: all that it has counts
                size = pages * PAGE_BYTES
            total += size
            if self._is_twin(pid):
                twice = max(twice, size)
        return total - twice

    def _is_twin(self, pid):
        """Whether this seems to be a child after `vfork`, with its parent's memory.

        A program can make it seem so, hence only one such child is not counted.
        """
        child = self._stats[pid]
        parent = self._stats.get(child[PARENT])
        return (
            parent is not None
            and parent[STATE] == b"D"
            and (parent[SIZE], parent[RESIDENT]) == (child[SIZE], child[RESIDENT])
        )


def _pids():
    """The other processes of this namespace."""
    return [name for name in posix.listdir("/proc") if name.isdecimal() and name != "1"]


def _read(path):
    """The content of a file, or None if it is gone or forbidden."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return None
    try:
        return read_all(fd)
    except OSError:  # the process has ended
        return None
    finally:
        posix.close(fd)


def _of_other_threads(pid):
    """(Where, how many pages) the memory is of a process whose first thread ended."""
    try:
        threads = posix.listdir(f"/proc/{pid}/task")
    except OSError:
        threads = []
    for thread in threads:
        place = f"/proc/{pid}/task/{thread}"
        text = _read(f"{place}/statm")
        if text and (pages := int(text.split()[1])):
            return place, pages
    return f"/proc/{pid}", 0


def _share(place):
    """Proportional memory of a process in bytes, or None if that cannot be seen."""
    text = _read(f"{place}/smaps_rollup")
    if text is None:
        return None
    return 1024 * sum(
        int(line.split()[1])
        for line in text.splitlines()
        if line.startswith((b"Pss_Anon:", b"Pss_Shmem:"))
    )


def _short_time(pid):
    """CPU seconds of a process that used less than a clock tick."""
    text = _read(f"/proc/{pid}/schedstat")  # absent in some kernels
    return int(text.split()[0]) / 1e9 if text else 0.0


def cpu_of_reaped():
    """CPU seconds of all processes that have ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def entries(folders):
    """How many files and folders the memory file systems of these folders hold."""
    total = 0
    for folder in folders:
        status = posix.statvfs(folder)
        total += status.f_files - status.f_ffree
    return total


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


class Watch:
    """Waits for the end of a program, or ends the waiting.

    Args:
      request: its limits `cpu_s`, `wall_s`, `memory_bytes` and `scratch_entries`.
      folders: in which memory file systems it can make files.
    """

    def __init__(self, request, folders):
        self._request = request
        self._folders = folders
        self._processes = Processes()
        self._looks_over = 0  # with too much memory, in a row

    def over(self):
        """The limit that all processes together have reached, or None."""
        request = self._request
        self._processes.look()
        if self._processes.cpu_s >= request["cpu_s"]:
            return "cpu"
        if entries(self._folders) > request["scratch_entries"]:
            return "files"
        # The exact number costs a walk through all pages, so it comes second.
        most = request["memory_bytes"]
        over = (
            self._processes.resident_bytes > most
            and self._processes.shared_bytes() > most
        )
        self._looks_over = self._looks_over + 1 if over else 0
        return "memory" if self._looks_over == MEMORY_LOOKS else None

    def wait(self, main_pid, wake_fd, stop_fds):
        """Waits until the program ends or a limit stops it: (reason, raw status).

        Args:
          main_pid: its first process.
          wake_fd: readable after a signal.
          stop_fds: readable when the library wants an end, or has ended itself.
        """
        poller = select.poll()
        poller.register(wake_fd, select.POLLIN)
        for fd in stop_fds:
            poller.register(fd, select.POLLIN)
        now = time.monotonic()
        end = now + self._request["wall_s"]
        next_look = now + POLL_S
        while True:
            status = reap(main_pid)
            if status is not None:
                return "ended", status
            now = time.monotonic()
            if now >= end:
                return "wall", 0
            if now >= next_look:
                if reason := self.over():
                    return reason, 0
                looked = time.monotonic()
                pause_s = max(POLL_S, POLL_COST * (looked - now))
                next_look = looked + min(pause_s, MAX_POLL_S)
            for fd, _ in poller.poll((min(next_look, end) - now) * 1000 + 1):
                if fd in stop_fds:
                    return "stopped", 0
                posix.read(wake_fd, 4096)
