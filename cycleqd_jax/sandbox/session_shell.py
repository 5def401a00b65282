"""The shell of a session: what is typed into it, what it prints, when it is done.

Part of the session's supervisor. In the clean form the shell reads commands from a pipe
and writes to another: no echo, no prompt, no colours; `shell_mark` tells when it is
ready. In the `terminal` form it is the same shell as the benchmark's, on a terminal of
its own, and it is done when its prompt is back.

The time of a turn is what an idle machine would need. Time in which nothing of the
session wants to run counts as it is. While something does, only the processor time that
it gets counts, but at least a tenth of the time on the clock. So a command that hangs
or sleeps ends at its limit, and one that computes is not ended early on a busy machine.
"""

import fcntl
import math
import os
import re
import select
import struct
import termios
import time

from cycleqd_jax.sandbox._watch import STATE, Processes
from cycleqd_jax.sandbox.shell_mark import FIRST_LINE, Mark
from cycleqd_jax.sandbox.shell_output import KEPT_BYTES as KEPT_BYTES
from cycleqd_jax.sandbox.shell_output import Output

LOOK_S = 0.05  # between two looks at what the session's processes do
LEAST_SHARE = 0.1  # of the time on the clock counts in any case
PROMPT = re.compile(rb"\x1b.+@.+[#|$] ")
_MEMORY_LOOKS = 3
_SETTLE_LOOKS, _SETTLE_S = 50, 0.002


class _Processes(Processes):
    """Also knows whether something wants to run."""

    def count(self):
        """How many there were at the look."""
        return len(self._stats)

    def zombies(self):
        """Whether a process had ended at the look, and its parent not yet seen it."""
        return any(fields[STATE] == b"Z" for fields in self._stats.values())

    def stopped(self):
        """Whether all were stopped at the look, or had ended."""
        return all(
            fields[STATE] in (b"T", b"t", b"Z") for fields in self._stats.values()
        )

    def busy(self):
        """Whether a process was running, or waiting for processor or disk."""
        return any(fields[STATE] in (b"R", b"D") for fields in self._stats.values())


class Clock:
    """Time as an idle machine would count it, and the session's other limits.

    Args:
      limits: `cpu_s` (seconds, since the session's start) and `memory_bytes`, of all
        processes together.
    """

    def __init__(self, limits):
        self._limits = limits
        self._processes = _Processes()
        self._before_s = 0.0  # processor time that does not count any more
        self._over = 0
        self._looked = time.monotonic()
        self._cpu_s = 0.0
        self.elapsed_s = 0.0

    def restart(self):
        """Begins at zero."""
        self._looked = time.monotonic()
        self._look()
        self.elapsed_s = 0.0

    def _look(self):
        self._processes.poll()
        used, self._cpu_s = self._processes.cpu_s - self._cpu_s, self._processes.cpu_s
        return max(used, 0.0)

    def start_again(self):
        """Takes the processor time that was used for nothing, from now on."""
        self._look()
        self._before_s = self._cpu_s

    def processes(self):
        """How many there are."""
        self._look()
        return self._processes.count()

    def settle(self):
        """Gives parents a moment to see that their children have ended."""
        self._wait(lambda: not self._processes.zombies())

    def stopped(self):
        """Whether all processes are stopped, or soon are: a call may have to end."""
        return self._wait(self._processes.stopped)

    def _wait(self, condition):
        for _ in range(_SETTLE_LOOKS):
            self._look()
            if condition():
                return True
            time.sleep(_SETTLE_S)
        return False

    def due(self):
        """Whether it is time for a tick."""
        return time.monotonic() - self._looked >= LOOK_S

    def tick(self):
        """Counts the time since the last tick; the limit that was reached, or None."""
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        passed = min(passed, 4 * LOOK_S)  # more, and it was us who had to wait
        used = self._look()
        if self._processes.busy():
            passed = min(passed, max(used, LEAST_SHARE * passed))
        self.elapsed_s += passed
        if self._cpu_s - self._before_s >= self._limits["cpu_s"]:
            return "cpu"
        most = self._limits["memory_bytes"]
        over = self._processes.resident_bytes > most
        over = over and self._processes.shared_bytes() > most
        self._over = self._over + 1 if over else 0
        return "memory" if self._over >= _MEMORY_LOOKS else None


class _Typing:
    """Types lines, each when the one before was read, as a terminal hands them out.

    A shell in the shell may read as much as there is, and what it reads beyond its end
    would be lost to the outer one.
    """

    _EAGER = 50  # looks without a pause, for a shell that is about to read
    _MAX_PAUSE_MS = 20.0

    def __init__(self, fd, lines, at_once=False):
        self._fd = fd
        self._at_once = at_once
        self._lines = list(reversed(lines))
        self._looks = 0

    @property
    def done(self):
        """Whether all was typed."""
        return not self._lines

    def go_on(self):
        """Types what can be typed; milliseconds until it should be tried again."""
        while self._lines and (self._at_once or not _unread(self._fd)):
            line = self._lines.pop()
            try:
                rest = line[os.write(self._fd, line) :]
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
            return math.inf
        self._looks += 1
        pause_ms = self._looks - self._EAGER
        return min(max(0.0, pause_ms), self._MAX_PAUSE_MS)


def _unread(fd):
    """How many bytes were written into a pipe or terminal but not yet read."""
    return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]


class Shell:
    """A shell that is running.

    Args:
      pid: its process.
      write_fd: what is typed goes here.
      read_fd: what is printed comes from here; the same where it is a terminal.
      terminal: whether it is one.
      clock: the session's.
    """

    def __init__(self, pid, write_fd, read_fd, terminal, clock):
        self.pid = pid
        self._write_fd = write_fd
        self._read_fd = read_fd
        self._terminal = terminal
        self._clock = clock
        self._ended_fd = os.pidfd_open(pid)
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)

    def type(self, code, limit_s, library_fd):
        """Types `code` and waits until the shell is ready again.

        Args:
          code: bytes, any number of lines.
          limit_s: seconds by the clock.
          library_fd: readable when the session shall end.

        Returns:
          (how it ended, `Output`): done, limit, exited, cpu, memory or stopped.
        """
        if self._terminal:
            lines = [] if code is None else [code + b"\n"]
            typing = _Typing(self._write_fd, lines, at_once=True)
        else:
            mark = Mark()
            text = (FIRST_LINE if code is None else code + b"\n") + mark.line
            typing = _Typing(self._write_fd, text.splitlines(keepends=True))
        output = Output()
        tail = b""  # not yet known whether it begins the mark
        echo_left = self._terminal and code is not None
        self._clock.restart()
        next_look = time.monotonic() + LOOK_S
        while True:
            poller = select.poll()
            poller.register(self._read_fd, select.POLLIN)
            poller.register(library_fd, select.POLLIN)
            poller.register(self._ended_fd, select.POLLIN)
            wait_ms = max(0.0, next_look - time.monotonic()) * 1000 + 1
            wait_ms = min(wait_ms, typing.go_on())
            ended = False
            for fd, event in poller.poll(wait_ms):
                ended = ended or fd == self._ended_fd
                if fd == library_fd:
                    return "stopped", output
                if fd != self._read_fd or not event & (select.POLLIN | select.POLLHUP):
                    continue
                try:
                    data = os.read(fd, 1 << 16)
                except BlockingIOError:
                    continue
                except OSError:  # a terminal that nobody holds any more
                    data = b""
                if not data:
                    output.add(tail, final=True)
                    return "exited", output
                tail += data
                if self._terminal:
                    if echo_left:
                        _, newline, rest = tail.partition(b"\n")
                        if not newline:
                            continue
                        tail, echo_left = rest, False
                    if typing.done and PROMPT.search(tail):
                        output.add(tail, final=True)
                        return "done", output
                    output.add(tail[:-4096])
                    tail = tail[-4096:]
                else:
                    before, rest = mark.split(tail)
                    output.add(before, final=rest is None)
                    if rest is None:
                        return "done" if mark.complete else "limit", output
                    tail = rest
            if ended and not any(
                fd == self._read_fd for fd, _ in poller.poll(0)
            ):  # others may hold its output open still
                output.add(tail, final=True)
                return "exited", output
            if time.monotonic() >= next_look:
                reason = self._clock.tick()
                if reason is None and self._clock.elapsed_s >= limit_s:
                    reason = "limit"
                if reason is not None:
                    output.add(tail, final=True)
                    return reason, output
                next_look = time.monotonic() + LOOK_S
