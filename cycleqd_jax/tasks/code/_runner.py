"""Calls an answer's function on inputs and writes what it returned.

Runs inside the sandbox, as its main program, from a folder with `answer` (the code,
UTF-8) and `request` (marshal, of ours): no expected value ever gets there. Each set of
inputs is tried by a child of its own, forked before the answer's code has run, which
sends one frame for each call through a pipe. We, the parent, see to the time limits and
write all frames to standard output at the end.

A frame is a kind, the CPU time of the call (microseconds, 8 bytes), the size of its
content (4 bytes) and the content; numbers are little-endian.

    L  the code was executed and has the function
    P  a plain value           T  a tagged one, see `values`
    D  SHA-256 of a plain value that is too long to be sent, B the same and the value
    E  an exception, as text   X  the end of a set, why it ended as text
    U  content: CPU microseconds of a fixed piece of work
"""

import _signal
import marshal
import os
import select
import sys
import time

GREETING = b"cycleqd_jax coding 1\n"
POLL_S = 0.02
FULL_BYTES = 2**20  # longer values are not sent
DIGEST_BYTES = 2**18  # of longer values the hash is sent
TOTAL_BYTES = 2**24  # of all values of a set; then only hashes
MAX_DEPTH = 50
STACK_BYTES = 2**32
_INFIX = 4  # bytes of a size
_HEADER = 1 + 8 + _INFIX


def frame(kind, content, cpu_s=0.0):
    """One frame."""
    cpu = max(0, int(cpu_s * 1e6)).to_bytes(8, "little")
    return kind + cpu + len(content).to_bytes(_INFIX, "little") + content


def write(fd, data):
    """Writes all of `data`."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


# The child.


class Sender:
    """Writes outputs as frames."""

    def __init__(self, fd):
        self.fd = fd
        self.left = TOTAL_BYTES

    def send(self, value, cpu_s, as_set):
        """One output; as_set: any iterable stands for its elements."""
        try:
            data, kind = marshal.dumps(value, 2), b"P"
        except ValueError:  # it is not plain
            if as_set and not is_plain_kind(value):
                value = list(value)
            data, kind = marshal.dumps(tagged(value, 0), 2), b"T"
        size = len(data)
        if kind == b"P" and size > DIGEST_BYTES:
            digest = sha256(data)
            fits = size <= FULL_BYTES and size <= self.left
            data, kind = (digest + data, b"B") if fits else (digest, b"D")
        elif size > FULL_BYTES or size > self.left:
            data, kind = marshal.dumps(("other", "long value"), 2), b"T"
        self.left -= len(data)
        write(self.fd, frame(kind, data, cpu_s))


def sha256(data):
    """The hash of some bytes."""
    import hashlib

    return hashlib.sha256(data).digest()


def is_plain_kind(value):
    """Whether it is of a built-in type or of a kind of one."""
    kinds = (str, bytes, tuple, list, set, frozenset, dict)
    return issubclass(type(value), kinds)


def tagged(value, depth, top=True):
    """A value as pairs of tag and content, with nothing but exact built-in types.

    What a subclass overrides is not asked: its value is that of the built-in type.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, complex, str, bytes):
        return value
    if depth > MAX_DEPTH:
        return ("other", "deep value")

    def inner(items):
        return [tagged(item, depth + 1, False) for item in items]

    def pairs(dictionary):
        return [
            (tagged(k, depth + 1, False), tagged(v, depth + 1, False))
            for k, v in dict.items(dictionary)
        ]

    if kind is list:
        return ("list", inner(value))
    if kind is tuple:
        return ("tuple", inner(value))
    if kind is set:
        return ("set", inner(value))
    if kind is frozenset:
        return ("frozenset", inner(value))
    if kind is dict:
        return ("dict", pairs(value))
    if kind is range:
        return ("range", value.start, value.stop, value.step)
    result = of_subclass(value, kind, inner, pairs)
    if result is None:
        result = of_library(value, kind, inner)
    if result is None:
        return ("other", str(kind.__name__)[:100])
    return ("inexact", result) if top else result


def of_subclass(value, kind, inner, pairs):
    """A value of a subclass of a built-in type, else None."""
    if issubclass(kind, dict):
        tag = "dict"
        collections = sys.modules.get("collections")
        if collections is not None:
            if issubclass(kind, collections.Counter):
                tag = "counter"
            elif issubclass(kind, collections.OrderedDict):
                return ("ordered", pairs(dict(collections.OrderedDict.items(value))))
        return (tag, pairs(value))
    if issubclass(kind, int):
        return int.__add__(value, 0)
    if issubclass(kind, float):
        return float.__pos__(value)
    if issubclass(kind, complex):
        return complex.__pos__(value)
    if issubclass(kind, str):
        return "".join([value])
    if issubclass(kind, bytes):
        return b"".join([value])
    if issubclass(kind, tuple):
        return ("tuple", inner(tuple.__iter__(value)))
    if issubclass(kind, list):
        return ("list", inner(list.__iter__(value)))
    if issubclass(kind, set):
        return ("set", inner(set.__iter__(value)))
    if issubclass(kind, frozenset):
        return ("frozenset", inner(frozenset.__iter__(value)))
    return None


def of_library(value, kind, inner):
    """A value of a library's type that may equal a built-in one, else None."""
    if kind in (type({}.keys()), type({}.items())):
        return ("set", inner(value))
    modules = sys.modules
    if "fractions" in modules and kind is modules["fractions"].Fraction:
        return ("fraction", int(value.numerator), int(value.denominator))
    if "decimal" in modules and kind is modules["decimal"].Decimal:
        return ("decimal", str(value))
    if "collections" in modules and kind is modules["collections"].deque:
        return ("deque", inner(value))
    if "numpy" in modules:
        numpy = modules["numpy"]
        if issubclass(kind, numpy.generic) and not issubclass(kind, numpy.void):
            return tagged(value.item(), 0, False)
    return None


def call_all(sender, code, entry_point, calls, as_set):
    """Executes the code and calls its function, up to the first exception."""
    clock = time.process_time
    try:
        scope = {}
        exec(compile(code, "<string>", "exec", dont_inherit=True), scope)
        function = scope[entry_point]
        write(sender.fd, frame(b"L", b""))
        for arguments in calls:
            start = clock()
            output = function(*arguments)
            sender.send(output, clock() - start, as_set)
    except BaseException as err:  # noqa: BLE001 - whatever it is, the answer fails
        text = f"{type(err).__name__}: {err}"[:200]
        write(sender.fd, frame(b"E", text.encode("utf-8", "replace")))


def become_child(fd):
    """A session of its own, no standard streams, the stack that EvalPlus gives."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    sys.argv = [""]
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    sys.path[:] = [path for path in sys.path if path != os.getcwd()]
    for folder in (f"/usr/local/lib/{version}", "/usr/lib/python3"):
        sys.path.append(f"{folder}/dist-packages")
    try:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
        most = STACK_BYTES if hard == resource.RLIM_INFINITY else min(hard, STACK_BYTES)
        resource.setrlimit(resource.RLIMIT_STACK, (most, hard))
    except (ImportError, ValueError, OSError):
        pass  # the stack stays as it is
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
        while len(self.data) - self.at >= _HEADER:
            kind = self.data[self.at]
            start = self.at + _HEADER
            size = int.from_bytes(self.data[start - _INFIX : start], "little")
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
            part = os.read(fd, 2**20)
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
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_fd)
            sender = become_child(write_fd)
            entry_point, as_set = request["entry_point"], request["as_set"]
            call_all(sender, code, entry_point, part["calls"], as_set)
        finally:
            os._exit(0)
    os.close(write_fd)
    child = Child(pid)
    frames, reason = watch(
        child, read_fd, part["limits"], part["load_s"], part["total_s"]
    )
    # Its pid is its own until it is waited for.
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, _signal.SIGKILL)
        except OSError:
            pass  # it has not begun or has ended
    status = os.waitpid(pid, 0)[1]
    os.close(read_fd)
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
