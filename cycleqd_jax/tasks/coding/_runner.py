"""Calls an answer's function on a problem's inputs and writes what it returned.

This is the main program in the sandbox. It starts in a folder with `values.py` (a copy
of `cycleqd_jax.tasks.values`), `answer` (the code, UTF-8) and `request` (marshalled by
us). No expected value is in the sandbox.

Each set of inputs has a child process of its own, forked before the answer's code has
run. The child writes lines into a pipe; its parent, this program, enforces the time
limits and writes a report to standard output:

    cycleqd_jax coding 2
    set <name> <lines> <reason>       the child of a set, and why it was stopped
    loaded                            its lines: the code has run and has the function,
    <microseconds> <text>             CPU time and encoded output of each call,
    failed <text>                     the exception that ended it
    end

Only built-in modules are imported (`os` and `signal` would cost milliseconds).
"""

import _io
import _posixsubprocess
import _signal
import marshal
import posix
import select
import sys
import time

from values import LONGEST, encode

GREETING = b"cycleqd_jax coding 2\n"
TOTAL_BYTES = 2**24  # of a set's outputs; of later ones only hashes are sent
POLL_S = 0.02
STACK_BYTES = 2**32
GUARDED = (
    "chdir chmod chown chroot fchdir fchmod fchown fork forkpty kill killpg lchown "
    "putenv remove rename replace rmdir setuid system truncate"
).split()
# An output of one of these types stands for itself where a set is asked for.
CONTAINERS = (str, bytes, tuple, list, set, frozenset, dict)


def write(fd, data):
    """Writes all of `data`."""
    view = memoryview(data)
    while view:
        view = view[posix.write(fd, view) :]


# The child.


def call_all(fd, code, entry_point, calls, as_set):
    """Runs the code and calls its function, up to the first exception."""
    clock = time.process_time
    left = TOTAL_BYTES
    try:
        scope = {"open": None}  # see `take_away`
        renew_streams()
        exec(compile(code, "<string>", "exec", dont_inherit=True), scope)
        function = scope[entry_point]
        write(fd, b"loaded\n")
        for arguments in calls:
            renew_streams()
            start = clock()
            output = function(*arguments)
            cpu_s = clock() - start
            if as_set and not issubclass(type(output), CONTAINERS):
                text = f'{{"like":{encode(list(output))}}}'  # any iterable will do
            else:
                text = encode(output) if left > 0 else encode(output, 0)
            left -= len(text)
            write(fd, f"{int(cpu_s * 1e6)} {text}\n".encode())
    except BaseException as err:  # noqa: BLE001 - whatever it is, the answer fails
        text = " ".join(f"failed {type(err).__name__}: {err}".split())[:200]
        write(fd, text.encode("utf-8", "replace") + b"\n")


class Stream(_io.StringIO):
    """Takes what is printed and has nothing to read, like EvalPlus's."""

    def read(self, *_):
        raise OSError

    readline = readlines = read

    def readable(self):
        return False


def renew_streams():
    """Standard streams for one call."""
    sys.stdin = sys.stdout = sys.stderr = Stream()


def take_away():
    """Removes what EvalPlus's `reliability_guard` removes, for the same verdicts.

    This protects nothing; an answer can get all of it in other ways. What Python's own
    modules need while they are imported stays: in EvalPlus they are imported before.
    """
    for name in GUARDED:  # `os`, not imported yet, takes them from here
        setattr(posix, name, None)
    _posixsubprocess.fork_exec = None
    for name in ("ipdb", "joblib", "resource", "psutil", "tkinter"):
        sys.modules[name] = None


def become_child(code):
    """A session of its own, no standard streams, and the stack that EvalPlus gives."""
    posix.setsid()
    null = posix.open("/dev/null", posix.O_RDWR)
    for stream in (0, 1, 2):
        posix.dup2(null, stream)
    sys.argv = [""]
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    sys.path[:] = [path for path in sys.path if path != posix.getcwd()]
    for folder in (f"/usr/local/lib/{version}", "/usr/lib/python3"):
        sys.path.append(f"{folder}/dist-packages")
    if "numpy" in code:
        # EvalPlus's process has it. Later it could not be imported, and its threads
        # would get the large stack.
        try:
            import numpy  # noqa: F401
        except ImportError:
            pass  # the system has none
    try:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
        most = STACK_BYTES if hard == resource.RLIM_INFINITY else min(hard, STACK_BYTES)
        resource.setrlimit(resource.RLIMIT_STACK, (most, hard))
    except (ImportError, ValueError, OSError):
        pass  # the stack stays as it is
    take_away()


# The parent.


class Child:
    """A child process and the time it has used: CPU time and time spent waiting.

    Time in which it was ready to run but had no CPU does not count, so the sum does not
    depend on what else the machine does.
    """

    def __init__(self, pid):
        self.pid = pid
        self.clock = (~pid << 3) | 2  # of all threads, see clock_getcpuclockid(3)
        self.waited_s = 0.0
        self.last = (time.monotonic(), self.cpu_s())

    def cpu_s(self):
        """Seconds of CPU time."""
        try:
            return time.clock_gettime(self.clock)
        except OSError:  # it has ended
            return self.last[1]

    def look(self):
        """Adds the time since the last look if it waited; returns whether it lives."""
        now, cpu_s = time.monotonic(), self.cpu_s()
        passed_s, used_s = now - self.last[0], cpu_s - self.last[1]
        self.last = (now, cpu_s)
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                state = file.read().rpartition(b")")[2].split()[0]
        except OSError:
            return False
        if state not in (b"R", b"Z") and used_s < passed_s / 4:
            self.waited_s += passed_s - used_s
        return state != b"Z"

    def awake(self):
        """It has written something, so what it waited for until now was us."""
        self.last = (time.monotonic(), self.cpu_s())

    @property
    def used_s(self):
        """Seconds of CPU time and of waiting."""
        return self.cpu_s() + self.waited_s


def read_some(fd):
    """Bytes from a pipe; None if there are none: the answer can read there, too."""
    try:
        return posix.read(fd, 2**20)
    except BlockingIOError:
        return None


def watch(child, fd, limits, load_s, total_s):
    """Collects a child's lines until it is done or over a limit.

    Returns:
      Its whole lines, at most one too many, and why there are no more.
    """
    data = bytearray()
    done, began_s, alive = 0, child.used_s, True  # lines, start of the current call
    reason = ""
    while not reason:
        ready = select.select([fd], [], [], POLL_S if alive else 0)[0]
        part = read_some(fd) if ready else None
        if part is not None:
            data += part
            child.awake()
            if b"\n" in part:
                done, began_s = done + part.count(b"\n"), child.used_s
            if not part:
                reason = "ended"
            elif len(data) > TOTAL_BYTES + 2 * LONGEST:
                reason = "output"
        elif not alive:
            reason = "ended"
        else:
            alive = child.look()
        limit_s = limits[done - 1] if 0 < done <= len(limits) else load_s
        used_s = child.used_s
        if done > len(limits):
            reason = "done"
        elif alive and (used_s - began_s > limit_s or used_s > total_s):
            if not select.select([fd], [], [], 0)[0]:  # it may be just in time
                reason = reason or "time"
    return bytes(data).split(b"\n", len(limits) + 2)[:-1], reason


def run_set(name, code, request):
    """Tries the code on one set of inputs.

    Returns:
      Its part of the report, and whether all calls returned.
    """
    part = request[name]
    read_fd, write_fd = posix.pipe()
    posix.set_blocking(read_fd, False)
    pid = posix.fork()
    if pid == 0:
        try:
            posix.close(read_fd)
            become_child(code)
            entry_point, as_set = request["entry_point"], request["as_set"]
            call_all(write_fd, code, entry_point, part["calls"], as_set)
        finally:
            posix._exit(0)
    posix.close(write_fd)
    limits = part["calls_s"], part["load_s"], part["total_s"]
    lines, reason = watch(Child(pid), read_fd, *limits)
    # Its pid is its own until it is waited for.
    for kill in (posix.killpg, posix.kill):
        try:
            kill(pid, _signal.SIGKILL)
        except OSError:
            pass  # it has not begun or has ended
    status = posix.waitpid(pid, 0)[1]
    posix.close(read_fd)
    if reason == "ended" and status & 0x7F:
        reason = f"signal-{status & 0x7F}"
    header = f"set {name} {len(lines)} {reason}".encode()
    return b"\n".join([header, *lines, b""]), reason == "done"


def main():
    """Everything."""
    write(1, GREETING)
    with open("request", "rb") as file:
        request = marshal.load(file)
    with open("answer", "rb") as file:
        code = file.read().decode()
    report = b""
    for name in ("base", "plus"):
        if name in request:
            part, complete = run_set(name, code, request)
            report += part
            if not complete:
                break
    write(1, report + b"end\n")


if __name__ == "__main__":
    main()
    posix._exit(0)  # without the time that Python takes to clean up
