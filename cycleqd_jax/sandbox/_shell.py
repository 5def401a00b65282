"""The shell of an episode: what is typed into it, what it prints, when it is done.

Part of process 1 (`_first`). In the clean form the shell reads commands
from a pipe and writes to another: no echo, no prompt, no colours. In the `terminal`
form it is the same shell as the benchmark's, on a terminal of its own, and it is done
when its prompt is back; see `shell_mark`.
"""

import fcntl
import posix
import select
import time

from cycleqd_jax.sandbox.shell_mark import FIRST_LINE, OnTerminal, Piped
from cycleqd_jax.sandbox.shell_output import Output

_READ_BYTES = 2**16
_DRAIN_READS = 64
_FIONREAD = 0x541B  # a small Python has no termios


def follow(streams, pid, ended_fd, stop_fds, clock, limit_s, *, ended, typing=None):
    """Reads what a process prints until it is done; says how that was.

    `streams` maps descriptors, read without blocking, to what takes their output and
    may say how it ended. `ended_fd` is readable when the process has ended, which is
    then called `ended`; others may hold its output open still. Other ends are limit,
    cpu, memory, files, stopped (one of `stop_fds` is readable: the world shall end) and
    halted (a signal stopped the process, and nobody types).
    """
    poller = select.poll()
    for fd in (*streams, ended_fd, *stop_fds):
        poller.register(fd, select.POLLIN)
    clock.restart()
    reads_left = _DRAIN_READS  # once it has ended
    while True:
        wait_ms = max(0.0, clock.next_look - time.monotonic()) * 1000 + 1
        if typing is not None:
            wait_ms = min(wait_ms, typing.go_on())
        ready = {fd for fd, _ in poller.poll(wait_ms)}
        if ready & set(stop_fds):
            return "stopped"
        reason = None
        for fd in ready & set(streams):
            data = read_some(fd)
            if data:
                said = streams[fd](data)
                reason = reason or said
            elif data is not None and typing is None:
                poller.unregister(fd)
            elif data is not None:
                reason = ended
        if reason is None and ended_fd in ready:
            reads_left -= 1
            if not ready & set(streams) or reads_left == 0:
                reason = ended
        if reason is None and time.monotonic() >= clock.next_look:
            reason = clock.tick()
            if reason is None and clock.processes.stopped(pid) and typing is None:
                reason = "halted"  # whoever stopped it would make us wait
            if reason is None and clock.elapsed_s >= limit_s:
                reason = "limit"
        if reason is not None:
            return reason


def read_some(fd):
    """Reads what has come: None if nothing has, b"" at the end."""
    try:
        return posix.read(fd, _READ_BYTES)
    except BlockingIOError:
        return None
    except OSError:  # a terminal that nobody holds any more
        return b""


class _Typing:
    """Types lines, each when the one before was read, as a terminal hands them out.

    A shell in the shell may read as much as there is, and what it reads beyond its end
    would be lost to the outer one.
    """

    _EAGER = 50  # looks without a pause, for a shell that is about to read
    _MAX_PAUSE_MS = 20

    def __init__(self, fd, lines, at_once):
        self._fd = fd
        self._at_once = at_once
        self._lines = lines[::-1]
        self._looks = 0

    @property
    def done(self):
        """True once all was typed."""
        return not self._lines

    def go_on(self):
        """Types what can be typed; milliseconds until it should be tried again."""
        while self._lines and (self._at_once or not _unread(self._fd)):
            line = self._lines.pop()
            try:
                rest = line[posix.write(self._fd, line) :]
            except BlockingIOError:
                rest = line
            except OSError:  # nobody reads; the end shows on the other side
                self._lines.clear()
                break
            self._looks = 0
            if rest:
                self._lines.append(rest)
                break
        if not self._lines:
            return 1e9
        self._looks += 1
        return min(max(0, self._looks - self._EAGER), self._MAX_PAUSE_MS)


def _unread(fd):
    """The number of bytes written into a pipe or terminal and not yet read."""
    return int.from_bytes(fcntl.ioctl(fd, _FIONREAD, bytes(4)), "little")


class Shell:
    """A shell that is running; both descriptors are one where it is a terminal."""

    def __init__(self, pid, write_fd, read_fd, terminal, clock):
        self._write_fd = write_fd
        self._read_fd = read_fd
        self._terminal = terminal
        self._clock = clock
        self._pid = pid
        self._ended_fd = posix.pidfd_open(pid)
        posix.set_blocking(read_fd, False)
        posix.set_blocking(write_fd, False)

    def type(self, code, limit_s, stop_fds):
        """Types lines (None: the start) and waits until the shell is ready again.

        Returns:
          (how it ended, see `follow`; `Output`).
        """
        output = Output()
        if self._terminal:
            printed = OnTerminal(output, echo=code is not None)
            lines = [] if code is None else [code + b"\n"]
        else:
            printed = Piped(output)
            text = (FIRST_LINE if code is None else code + b"\n") + printed.line
            lines = [line + b"\n" for line in text.split(b"\n")[:-1]]
        typing = _Typing(self._write_fd, lines, at_once=self._terminal)

        def heard(data):
            ended = printed.add(data)
            return ended if typing.done else None

        reason = follow(
            {self._read_fd: heard},
            *(self._pid, self._ended_fd, stop_fds, self._clock, limit_s),
            ended="exited",
            typing=typing,
        )
        printed.end()
        return reason, output
