"""The shell of an episode: what is typed into it, what it prints, when it is done.

Part of process 1 of an episode (`_episode`). In the clean form the shell reads commands
from a pipe and writes to another: no echo, no prompt, no colours. In the `terminal`
form it is the same shell as the benchmark's, on a terminal of its own, and it is done
when its prompt is back; see `shell_mark`.

The time of a turn is what an idle machine would need. Time in which nothing of the
episode wants to run counts as it is. While something does, only the processor time that
it gets counts, but at least a tenth of the time on the clock. So a command that hangs
or sleeps ends at its limit, and one that computes is not ended early on a busy machine.
"""

import fcntl
import posix
import select
import time

from cycleqd_jax.sandbox._watch import PARENT, STATE, THREADS, Processes
from cycleqd_jax.sandbox.shell_mark import FIRST_LINE, Mark, Prompt
from cycleqd_jax.sandbox.shell_output import Output

LOOK_S = 0.05  # between two looks at what the episode's processes do
LEAST_SHARE = 0.1  # of the time on the clock counts in any case
_READ_BYTES = 2**16
_DRAIN_READS = 64
_FIONREAD = 0x541B  # a small Python has no termios


class States(Processes):
    """Also knows what the processes were doing at the last poll."""

    def busy(self):
        """True if a process was running, or waiting for processor or disk."""
        return any(fields[STATE] in (b"R", b"D") for fields in self._stats.values())

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


class Clock:
    """Time as an idle machine would count it, and the episode's other limits.

    Args:
      limits: `cpu_s` (seconds, since the start) and `memory_bytes`, of all processes
        together.
    """

    def __init__(self, limits):
        self._limits = limits
        self.processes = States()
        self._before_s = 0.0  # processor time that does not count any more
        self._looked = time.monotonic()
        self._cpu_s = 0.0
        self.elapsed_s = 0.0

    def restart(self):
        """Begins at zero."""
        self._looked = time.monotonic()
        self._look()
        self.elapsed_s = 0.0

    def start_again(self):
        """Takes the processor time that was used for nothing, from now on."""
        self._look()
        self._before_s = self._cpu_s

    def _look(self):
        self.processes.poll()
        used, self._cpu_s = self.processes.cpu_s - self._cpu_s, self.processes.cpu_s
        return max(used, 0.0)

    def tick(self):
        """Counts the time since the last tick; the limit that was reached, or None."""
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        passed = min(passed, 4 * LOOK_S)  # more, and it was us who had to wait
        used = self._look()
        if self.processes.busy():
            passed = min(passed, max(used, LEAST_SHARE * passed))
        self.elapsed_s += passed
        if self._cpu_s - self._before_s >= self._limits["cpu_s"]:
            return "cpu"
        large = self.processes.too_large(self._limits["memory_bytes"])
        return "memory" if large else None


def follow(read_fd, ended_fd, stop_fds, clock, limit_s, add, *, ended, typing=None):
    """Reads what a process prints until it is done.

    Args:
      read_fd: what it prints comes from here, without blocking.
      ended_fd: readable when it has ended. Others may hold its output open still.
      stop_fds: readable when the episode shall end.
      clock: the episode's.
      limit_s: seconds by the clock.
      add: takes output; says how it ended, or None.
      ended: what the end of the process is called.
      typing: `_Typing`, or None.

    Returns:
      What `add` says, `ended`, limit, cpu, memory or stopped.
    """
    poller = select.poll()
    for fd in (read_fd, ended_fd, *stop_fds):
        poller.register(fd, select.POLLIN)
    clock.restart()
    reads_left = _DRAIN_READS  # once it has ended
    next_look = time.monotonic() + LOOK_S
    while True:
        wait_ms = max(0.0, next_look - time.monotonic()) * 1000 + 1
        if typing is not None:
            wait_ms = min(wait_ms, typing.go_on())
        ready = {fd for fd, _ in poller.poll(wait_ms)}
        if ready & set(stop_fds):
            return "stopped"
        reason = None
        if read_fd in ready:
            data = _read(read_fd)
            if data:
                reason = add(data)
            elif data is not None and typing is None:
                poller.unregister(read_fd)
            elif data is not None:
                reason = ended
        if reason is None and ended_fd in ready:
            reads_left -= 1
            if read_fd not in ready or reads_left == 0:
                reason = ended
        if reason is None and time.monotonic() >= next_look:
            reason = clock.tick()
            if reason is None and clock.elapsed_s >= limit_s:
                reason = "limit"
            next_look = time.monotonic() + LOOK_S
        if reason is not None:
            return reason


def _read(fd):
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


class _Piped:
    """Reads the output of a shell on pipes."""

    def __init__(self):
        self._mark = Mark()
        self._tail = b""  # not yet known whether it begins the mark
        self.line = self._mark.line

    def add(self, data, output, typed):
        """Takes output; how the turn ended, or None."""
        del typed
        before, rest = self._mark.split(self._tail + data)
        output.add(before, final=rest is None)
        self._tail = rest or b""
        if rest is None:
            return "done" if self._mark.complete else "limit"
        return None

    def end(self, output):
        """Nothing follows."""
        output.add(self._tail, final=True)


class _OnTerminal:
    """Reads the output of a shell on a terminal, without the echo of the first line."""

    line = b""

    def __init__(self, echo):
        self._echo = echo
        self._prompt = Prompt()

    def add(self, data, output, typed):
        """Takes output; how the turn ended, or None."""
        if self._echo:
            _, newline, data = data.partition(b"\n")
            if not newline:
                return None
            self._echo = False
        found = self._prompt.add(data) and typed
        output.add(data, final=found)
        return "done" if found else None

    def end(self, output):
        """Nothing follows."""
        output.add(b"", final=True)


class Shell:
    """A shell that is running.

    Args:
      pid: its process.
      write_fd: what is typed goes here.
      read_fd: what is printed comes from here; the same where it is a terminal.
      terminal: whether it is one.
      clock: the episode's.
    """

    def __init__(self, pid, write_fd, read_fd, terminal, clock):
        self._write_fd = write_fd
        self._read_fd = read_fd
        self._terminal = terminal
        self._clock = clock
        self._ended_fd = posix.pidfd_open(pid)
        posix.set_blocking(read_fd, False)
        posix.set_blocking(write_fd, False)

    def type(self, code, limit_s, stop_fds):
        """Types `code` and waits until the shell is ready again.

        Args:
          code: bytes, any number of lines; None for the start.
          limit_s: seconds by the clock.
          stop_fds: readable when the episode shall end.

        Returns:
          (how it ended, `Output`): done, limit, exited, cpu, memory or stopped.
        """
        printed = _OnTerminal(code is not None) if self._terminal else _Piped()
        if self._terminal:
            lines = [] if code is None else [code + b"\n"]
        else:
            text = (FIRST_LINE if code is None else code + b"\n") + printed.line
            lines = [line + b"\n" for line in text.split(b"\n")[:-1]]
        typing = _Typing(self._write_fd, lines, at_once=self._terminal)
        output = Output()
        reason = follow(
            self._read_fd,
            self._ended_fd,
            stop_fds,
            self._clock,
            limit_s,
            lambda data: printed.add(data, output, typing.done),
            ended="exited",
            typing=typing,
        )
        printed.end(output)
        return reason, output
