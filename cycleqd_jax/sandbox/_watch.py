"""Measures what all processes of a program use together, and enforces the limits.

Part of the supervisor; it uses only built-in modules (see `_supervisor`). The kernel
limits single processes (`setrlimit`). CPU time, memory and number of files of all
processes together are polled here every `POLL_S` seconds.
"""

import _signal
import posix
import select
import time

from cycleqd_jax.sandbox._collect import PAGE_BYTES, read_all

POLL_S = 0.02  # pause between two polls
POLL_COST = 20  # or this multiple of the last poll's duration, if longer
MAX_POLL_S = 0.2  # longest pause
# So many polls in a row must find too much memory: between `vfork` and `exec` a child
# shares the memory of its parent, which is then counted twice.
MEMORY_POLLS = 3
TICK_S = 1 / posix.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat after the name, which is in parentheses.
STATE, PARENT, UTIME, STIME, CUTIME, CSTIME = 0, 1, 11, 12, 13, 14
THREADS, STARTED, SIZE, RESIDENT = 17, 19, 20, 21


class Processes:
    """All processes of this namespace except the supervisor, as of the last poll.

    When a process ends, its CPU time is added to the parent that waits for it, or lost
    if the parent ignores SIGCHLD. So the time of each process is remembered here, and
    of the processes that are gone the larger counts: the time added to parents or the
    time remembered. Neither exceeds the time used. A program that ignores SIGCHLD hides
    only what its children use between their last poll and their end.

    Attributes:
      cpu_s: CPU seconds of all processes since the start.
      resident_bytes: memory; shared memory counts once per process.
    """

    def __init__(self):
        self.cpu_s = 0.0
        self.resident_bytes = 0
        self._own: dict[tuple[bytes, bytes], float] = {}  # (pid, start) -> seconds
        self._ended_s = 0.0
        self._polls_over = 0  # consecutive ones with too much memory
        self._stats: dict[bytes, list[bytes]] = {}  # pid -> fields
        self._memory: dict[bytes, tuple[str, int]] = {}  # pid -> /proc folder, pages

    def poll(self):
        """Updates the attributes."""
        own = {}
        inherited_s = 0.0
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
            inherited_s += (int(fields[CUTIME]) + int(fields[CSTIME])) * TICK_S
            folder, pages = f"/proc/{pid}", int(fields[RESIDENT])
            if fields[STATE] == b"Z" and int(fields[THREADS]) > 1:
                folder, pages = _memory_of_other_threads(pid)
            self._stats[pid.encode()] = fields
            self._memory[pid.encode()] = folder, pages
        for key, own_s in self._own.items():
            if key not in own:
                self._ended_s += own_s
        self._own = own
        inherited_s += cpu_of_reaped()
        self.cpu_s = sum(own.values()) + max(inherited_s, self._ended_s)
        pages = sum(pages for _, pages in self._memory.values())
        self.resident_bytes = pages * PAGE_BYTES

    def too_large(self, most):
        """True if some polls in a row, one for each call, found more memory."""
        # `shared_bytes` walks through all page tables, so it comes second.
        over = self.resident_bytes > most and self.shared_bytes() > most
        self._polls_over = self._polls_over + 1 if over else 0
        return self._polls_over >= MEMORY_POLLS

    def shared_bytes(self):
        """Memory; shared memory counts in proportional shares."""
        total = duplicate = 0
        for pid, (folder, pages) in self._memory.items():
            size = _proportional_bytes(folder)
            if size is None:  # not readable: all of it counts
                size = pages * PAGE_BYTES
            total += size
            if self._is_vfork_child(pid):
                duplicate = max(duplicate, size)
        return total - duplicate

    def _is_vfork_child(self, pid):
        """True if this looks like a child after `vfork`, with its parent's memory.

        A program can imitate that, so only one such child is left out of the sum.
        """
        child = self._stats[pid]
        parent = self._stats.get(child[PARENT])
        return (
            parent is not None
            and parent[STATE] == b"D"
            and (parent[SIZE], parent[RESIDENT]) == (child[SIZE], child[RESIDENT])
        )


def _pids():
    """Ids of the other processes of this namespace."""
    return [name for name in posix.listdir("/proc") if name.isdecimal() and name != "1"]


def _read(path):
    """The content of a file; None if it is gone or not readable."""
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


def _memory_of_other_threads(pid):
    """(/proc folder, pages) of a process whose first thread has ended."""
    try:
        threads = posix.listdir(f"/proc/{pid}/task")
    except OSError:
        threads = []
    for thread in threads:
        folder = f"/proc/{pid}/task/{thread}"
        text = _read(f"{folder}/statm")
        if text and (pages := int(text.split()[1])):
            return folder, pages
    return f"/proc/{pid}", 0


def _proportional_bytes(folder):
    """Proportional memory (PSS) of a process in bytes; None if not readable."""
    text = _read(f"{folder}/smaps_rollup")
    if text is None:
        return None
    return 1024 * sum(
        int(line.split()[1])
        for line in text.splitlines()
        if line.startswith((b"Pss_Anon:", b"Pss_Shmem:"))
    )


def _short_time(pid):
    """CPU seconds of a process that has used less than a clock tick."""
    text = _read(f"/proc/{pid}/schedstat")  # absent in some kernels
    return int(text.split()[0]) / 1e9 if text else 0.0


def cpu_of_reaped():
    """CPU seconds of all processes that ended and were waited for, in clock ticks."""
    times = posix.times()
    return times.children_user + times.children_system


def entries(folders):
    """Number of files and folders in the file systems of these folders."""
    total = 0
    for folder in folders:
        status = posix.statvfs(folder)
        total += status.f_files - status.f_ffree
    return total


def reap(main_pid):
    """Reaps all ended processes.

    Returns:
      The status of the main process when it has ended or was stopped, else None.
    """
    main_status = None
    while True:
        try:
            pid, status = posix.waitpid(-1, posix.WNOHANG | posix.WUNTRACED)
        except ChildProcessError:
            return main_status
        if pid == 0:
            return main_status
        if pid == main_pid:
            main_status = status


def kill_all():
    """Kills all other processes of this namespace and waits for them."""
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
    """Waits for the end of a program or for a limit.

    Args:
      request: has the limits `cpu_s`, `wall_s`, `memory_bytes` and `scratch_entries`.
      folders: in the file systems in which the program can create files.
    """

    def __init__(self, request, folders):
        self._request = request
        self._folders = folders
        self._processes = Processes()

    def over(self):
        """The limit that all processes together have reached; None if there is none."""
        request = self._request
        self._processes.poll()
        if self._processes.cpu_s >= request["cpu_s"]:
            return "cpu"
        if entries(self._folders) > request["scratch_entries"]:
            return "files"
        return "memory" if self._processes.too_large(request["memory_bytes"]) else None

    def wait(self, main_pid, wake_fd, stop_fds):
        """Waits until the program ends or reaches a limit: (reason, raw status).

        Args:
          main_pid: its first process.
          wake_fd: readable after a signal.
          stop_fds: readable when the library asks to stop, or its process has ended.
        """
        poller = select.poll()
        poller.register(wake_fd, select.POLLIN)
        for fd in stop_fds:
            poller.register(fd, select.POLLIN)
        now = time.monotonic()
        end = now + self._request["wall_s"]
        next_poll = now + POLL_S
        while True:
            status = reap(main_pid)
            if status is not None and posix.WIFSTOPPED(status):
                # Whoever stopped it would make us wait for the whole wall-clock time.
                return "signalled", posix.WSTOPSIG(status)
            if status is not None:
                return "ended", status
            now = time.monotonic()
            if now >= end:
                return "wall", 0
            if now >= next_poll:
                if reason := self.over():
                    return reason, 0
                polled = time.monotonic()
                pause_s = max(POLL_S, POLL_COST * (polled - now))
                next_poll = polled + min(pause_s, MAX_POLL_S)
            for fd, _ in poller.poll((min(next_poll, end) - now) * 1000 + 1):
                if fd in stop_fds:
                    return "stopped", 0
                posix.read(wake_fd, 4096)
