"""Calls an answer's function on inputs and writes what it returned.

Runs inside the sandbox, as its main program, from a folder with `answer` (the code,
UTF-8) and `request` (marshal, of ours): no expected value ever gets there. Each set of
inputs is tried by a child of its own, forked before the answer's code has run, which
sends one frame for each call through a pipe (see `_outputs`, which lies beside us). We,
the parent, see to the time limits and write all frames to standard output at the end.

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

from _outputs import FULL_BYTES, TOTAL_BYTES, Sender, frame, write

GREETING = b"cycleqd_jax coding 1\n"
POLL_S = 0.02
STACK_BYTES = 2**32
GUARDED = (
    "chdir chmod chown chroot fchdir fchmod fchown fork forkpty kill killpg lchown "
    "putenv remove rename replace rmdir setuid system truncate"
).split()
HEADER_BYTES = 13  # of a frame, the last four of them its size


# The child.


def call_all(sender, code, entry_point, calls, as_set):
    """Executes the code and calls its function, up to the first exception."""
    clock = time.process_time
    try:
        scope = {"open": None}  # see `take_away`
        renew_streams()
        exec(compile(code, "<string>", "exec", dont_inherit=True), scope)
        function = scope[entry_point]
        write(sender.fd, frame(b"L", b""))
        for arguments in calls:
            renew_streams()
            start = clock()
            output = function(*arguments)
            sender.send(output, clock() - start, as_set)
    except BaseException as err:  # noqa: BLE001 - whatever it is, the answer fails
        text = f"{type(err).__name__}: {err}"[:200]
        write(sender.fd, frame(b"E", text.encode("utf-8", "replace")))


class Stream(_io.StringIO):
    """Takes what is printed, and gives nothing to read, as EvalPlus's does."""

    def read(self, *_):
        raise OSError

    readline = readlines = read

    def readable(self):
        return False


def renew_streams():
    """Standard streams for one call."""
    sys.stdin = sys.stdout = sys.stderr = Stream()


def take_away():
    """What EvalPlus's `reliability_guard` takes away, so that verdicts are the same.

    It protects from nothing: there are other ways to all of it. What modules of Python
    need while they are imported stays, since those of EvalPlus have been imported.
    """
    for name in GUARDED:  # `os`, not imported yet, takes them from here
        setattr(posix, name, None)
    _posixsubprocess.fork_exec = None
    for name in ("ipdb", "joblib", "resource", "psutil", "tkinter"):
        sys.modules[name] = None


def become_child(fd, code):
    """A session of its own, no standard streams, the stack that EvalPlus gives."""
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
        # EvalPlus's process has it. It cannot be imported once things are taken away,
        # and its threads would have the stack below.
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
    return Sender(fd)


# The parent.


class Child:
    """A child and what it has used: CPU time, and time in which it waited.

    Time in which it was ready to run but did not get to is not counted, so the sum does
    not depend on what else the machine does.
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
        """Whether it is alive; adds the time since the last look if it waited."""
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
        """It sent something: whatever it waited for before, it was us."""
        self.last = (time.monotonic(), self.cpu_s())

    @property
    def used_s(self):
        """Seconds of both."""
        return self.cpu_s() + self.waited_s


class Frames:
    """Whole frames out of a stream of bytes."""

    def __init__(self):
        self.data = bytearray()
        self.at = 0  # end of the whole frames
        self.kinds = bytearray()

    def feed(self, part):
        """Takes bytes; False if no frame can look like that."""
        self.data += part
        while len(self.data) - self.at >= HEADER_BYTES:
            kind = self.data[self.at]
            start = self.at + HEADER_BYTES
            size = int.from_bytes(self.data[start - 4 : start], "little")
            if kind not in b"LPTDBE" or size > FULL_BYTES + 32:
                return False
            if len(self.data) - start < size:
                break
            self.kinds.append(kind)
            self.at = start + size
        return len(self.data) <= TOTAL_BYTES + 2 * FULL_BYTES


def watch(child, fd, limits, load_s, total_s):
    """Collects a child's frames until it is done or over a limit.

    Returns:
      The frames, and why there are no more.
    """
    frames = Frames()
    began_s = child.used_s  # when the last call began
    alive = True
    while True:
        if select.select([fd], [], [], POLL_S if alive else 0)[0]:
            part = posix.read(fd, 2**20)
            if not part:
                return frames, "ended"
            before = len(frames.kinds)
            if not frames.feed(part):
                return frames, "malformed"
            child.awake()
            if len(frames.kinds) > before:
                began_s = child.used_s
        elif not alive:
            return frames, "ended"
        else:
            alive = child.look()
        done = len(frames.kinds)
        if done > len(limits) or frames.kinds.endswith(b"E"):
            return frames, "done"
        limit_s = load_s if done == 0 else limits[done - 1]
        used_s = child.used_s
        if alive and (used_s - began_s > limit_s or used_s > total_s):
            if not select.select([fd], [], [], 0)[0]:  # it may have been just in time
                return frames, "time"


def run_set(code, request, name):
    """Tries the code on one set of inputs and returns its frames."""
    part = request[name]
    read_fd, write_fd = posix.pipe()
    pid = posix.fork()
    if pid == 0:
        try:
            posix.close(read_fd)
            sender = become_child(write_fd, code)
            entry_point, as_set = request["entry_point"], request["as_set"]
            call_all(sender, code, entry_point, part["calls"], as_set)
        finally:
            posix._exit(0)
    posix.close(write_fd)
    child = Child(pid)
    frames, reason = watch(
        child, read_fd, part["limits"], part["load_s"], part["total_s"]
    )
    # Its pid is its own until it is waited for.
    for kill in (posix.killpg, posix.kill):
        try:
            kill(pid, _signal.SIGKILL)
        except OSError:
            pass  # it has not begun or has ended
    status = posix.waitpid(pid, 0)[1]
    posix.close(read_fd)
    if reason == "ended" and status & 0x7F:
        reason = f"signal {status & 0x7F}"
    whole = bytes(frames.data[: frames.at])
    succeeded = reason == "done" and not frames.kinds.endswith(b"E")
    return whole + frame(b"X", reason.encode()), succeeded


def work():
    """CPU seconds of a fixed piece of work like that of the problems."""
    start = time.process_time()
    total, words = 0, {}
    for i in range(60_000):
        total = (total * 31 + i) % 1_000_003
        words[str(total % 997)] = [i, total]
    return time.process_time() - start


def main():
    """Everything."""
    write(1, GREETING)
    with open("request", "rb") as file:
        request = marshal.load(file)
    with open("answer", "rb") as file:
        code = file.read().decode()
    out = b""
    if request["measure"]:
        best_s = min(work() for _ in range(3))
        out += frame(b"U", int(best_s * 1e6).to_bytes(8, "little"))
    for name in ("base", "plus"):
        if name in request:
            frames, succeeded = run_set(code, request, name)
            out += frames
            if not succeeded:
                break
    write(1, out + b"end\n")


if __name__ == "__main__":
    main()
    posix._exit(0)  # without the time that Python takes to clean up
