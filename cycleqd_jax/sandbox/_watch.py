"""Measures what all processes of a world use together, and the time that they need.

Part of process 1 (`_first`). The kernel limits single processes (`setrlimit`).
Processor time, memory and number of files of all of them together are polled here.

The time of a program or of a turn is what an idle machine would need. Time in which
nothing in the world wants to run counts as it is. While something does, only the
processor time that it gets counts, but at least a tenth of the time on the clock. So a
command that hangs or sleeps ends at its limit, and one that computes is not ended early
on a busy machine.
"""

import _signal
import posix
import time

from cycleqd_jax.sandbox._collect import PAGE_BYTES, read_all

LOOK_S = 0.02  # pause between two looks
LOOK_COST = 20  # or this multiple of the last look's duration, if longer
MAX_LOOK_S = 0.2  # longest pause
LEAST_SHARE = 0.1  # of the time on the clock counts in any case
MOST_WAIT_S = 10.0  # left out while something only waits in the kernel
# So many polls in a row must find too much memory: between `vfork` and `exec` a child
# shares the memory of its parent, which is then counted twice.
MEMORY_POLLS = 3
TICK_S = 1 / posix.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat after the name, which is in parentheses.
STATE, PARENT, UTIME, STIME, CUTIME, CSTIME = 0, 1, 11, 12, 13, 14
THREADS, STARTED, SIZE, RESIDENT = 17, 19, 20, 21


class Processes:
    """All processes of this namespace except process 1, as of the last poll.

    When a process ends, its CPU time is added to the parent that waits for it, or lost
    if the parent ignores SIGCHLD. So the time of each process is remembered here, and
    of the processes that are gone the larger counts: the time added to parents or the
    time remembered. Neither exceeds the time used. A program that ignores SIGCHLD hides
    only what its children use between their last poll and their end.
    """

    def __init__(self):
        self.cpu_s = 0.0  # of all processes since the start
        self.resident_bytes = 0  # shared memory counts once per process
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
        times = posix.times()  # of all that ended here and were waited for
        inherited_s += times.children_user + times.children_system
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

    def running(self):
        """True if a process was running, or waiting for the processor."""
        return any(fields[STATE] == b"R" for fields in self._stats.values())

    def waiting(self):
        """True if a process was waiting in the kernel, as for a disk."""
        parents = {fields[PARENT] for fields in self._stats.values()}
        # One with a child may as well wait for that, since `vfork`.
        return any(
            fields[STATE] == b"D" and pid not in parents
            for pid, fields in self._stats.items()
        )

    def stopped(self, pid):
        """True if a process was stopped by a signal."""
        fields = self._stats.get(b"%d" % pid)
        return fields is not None and fields[STATE] == b"T"

    def living(self):
        """Process id -> parent of those that have not ended."""
        return {
            int(pid): int(fields[PARENT])
            for pid, fields in self._stats.items()
            # The first thread may have ended, and others not.
            if fields[STATE] != b"Z" or int(fields[THREADS]) > 1
        }

    def count(self):
        """The number of processes, ended ones included."""
        return len(self._stats)

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


def entries(folders):
    """Number of files and folders in the file systems of these folders."""
    systems = map(posix.statvfs, folders)
    return sum(system.f_files - system.f_ffree for system in systems)


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


class Clock:
    """Time since `restart`, as an idle machine would count it, and all other limits.

    `limits` are `cpu_s` (seconds since the start) and `memory_bytes`, of all processes
    together, and `entries` in the file systems of `folders`. At `next_look` of
    `time.monotonic`, `tick` should be called again.
    """

    def __init__(self, limits):
        self._limits = limits
        self.processes = Processes()
        self._before_s = 0.0  # processor time that does not count any more
        self.restart()

    def restart(self):
        """Begins at zero."""
        self._looked = time.monotonic()
        self._look()
        self.elapsed_s = self._waited_s = 0.0

    def start_again(self):
        """Takes the processor time that was used for nothing, from now on."""
        self._look()
        self._before_s = self.processes.cpu_s

    def _look(self):
        before_s, start = self.processes.cpu_s, time.monotonic()
        self.processes.poll()
        end = time.monotonic()
        pause_s = max(LOOK_S, LOOK_COST * (end - start))
        self.next_look = end + min(pause_s, MAX_LOOK_S)
        return max(self.processes.cpu_s - before_s, 0.0)

    def tick(self):
        """Counts the time since the last tick; the limit that was reached, or None."""
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        passed = min(passed, 2 * MAX_LOOK_S)  # more, and it was us who had to wait
        used = self._look()
        running = self.processes.running()
        if running or (self._waited_s < MOST_WAIT_S and self.processes.waiting()):
            counted = min(passed, max(used, LEAST_SHARE * passed))
            if not running:
                self._waited_s += passed - counted
            passed = counted
        self.elapsed_s += passed
        return self._over()

    def last_tick(self):
        """The limit that was reached by processes that have all ended, or None."""
        self._look()
        return self._over()

    def _over(self):
        limits, processes = self._limits, self.processes
        if processes.cpu_s - self._before_s >= limits["cpu_s"]:
            return "cpu"
        if entries(limits["folders"]) > limits["entries"]:
            return "files"
        return "memory" if processes.too_large(limits["memory_bytes"]) else None
