"""Ends a command that a signal asks to end: SIGINT (Ctrl-C), SIGTERM or SIGHUP.

Python reports a signal by an exception in the main thread. It comes late while a
program compiles, and libraries lose it: in a callback, in `__del__`, by an `except`.
So a thread hears of every signal too (`signal.set_wakeup_fd`), and ends the process
if the main thread does not: at once while nothing can be lost (before the work, and
while Python shuts down), else at a second signal or after `GRACE_S`. Files are written
so that they survive that, and the processes that we started notice our end themselves.

The standard library is all that is imported here: this must begin before long imports.
"""

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator

GRACE_S = 6.0  # for the main thread, from the first signal on
_ONE_SIGNAL_S = 0.5  # `timeout` and shells send the same signal twice
_WORDS = {
    signal.SIGINT: "Interrupted.",
    signal.SIGTERM: "Terminated.",
    signal.SIGHUP: "The terminal was closed.",
}
_QUESTION = 0  # a byte in the pipe that is no signal: "have you heard all before it?"
_SHOW_CURSOR = b"\x1b[?25h"


class Ending:
    """Hears the signals of this process; made in the main thread.

    Signals that are ignored stay ignored: `nohup` and shells mean it.
    """

    def __init__(self):
        self._working = False
        self._advice = ""
        self._came = 0  # the first signal
        self._code: int | None = None
        self._said = False
        self._lock = threading.Lock()  # of the sentence
        self._answered = threading.Event()
        self._stderr = _copy_of_stderr()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._former = {
            number: signal.signal(number, self._handle)
            for number in _WORDS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        self._former_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._former_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        self._thread = threading.Thread(target=self._listen, name="ending", daemon=True)
        self._thread.start()

    def begin(self, advice: str) -> None:
        """From now on a signal ends the work like Ctrl-C: with a `KeyboardInterrupt`.

        Args:
          advice: is said after the signal's name.
        """
        self._advice = advice
        self._working = True
        if signal.SIGINT in self._former:
            # asyncio puts its own in place of this one, which cancels what runs.
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def finish(self) -> int:
        """From now on a signal ends the process at once.

        Returns:
          The signal that came during the work, even if a library lost it; 0 if none.
        """
        if signal.SIGINT in self._former:
            signal.signal(signal.SIGINT, self._handle)
        self._working = False
        self._ask()
        return self._came

    def say(self, number: int) -> None:
        """Says, once, which signal ended the work, and the advice."""
        if not self._lock.acquire(timeout=1):
            return
        with contextlib.suppress(OSError):  # standard error may be closed
            if not self._said:
                words = f"\n{_WORDS[number]} {self._advice}".rstrip() + "\n"
                os.write(self._stderr, words.encode(errors="backslashreplace"))
        self._said = True
        self._lock.release()

    def leave_with(self, code: int) -> None:
        """Sets the exit code of the process, unless another signal comes."""
        self._code = code

    def forget(self) -> None:
        """In a fork: signals to it are none to us, but would go into our pipe."""
        signal.set_wakeup_fd(-1)
        for number in self._former:
            signal.signal(number, signal.SIG_DFL)
        sys.unraisablehook = self._former_hook

    def close(self) -> None:
        """Puts the former handlers of signals back."""
        signal.set_wakeup_fd(self._former_fd)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._former_hook
        os.close(self._write)
        self._thread.join()
        os.close(self._read)
        os.dup2(self._stderr, 2)
        os.close(self._stderr)

    def leave(self) -> None:
        """Ends the process, as the last of its exit functions; see `leave_with`.

        Python's own end would take a while longer, in which signals go astray.
        """
        if self._code is not None:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            self._ask()
            os._exit(self._code)

    def _handle(self, number: int, frame) -> None:
        if self._working:
            handler = signal.getsignal(signal.SIGINT)
            if not callable(handler) or handler == self._handle:
                raise KeyboardInterrupt  # Ctrl-C is ignored, or not yet its own
            handler(signal.SIGINT, frame)

    def _unraisable(self, lost) -> None:
        """Does not show a `KeyboardInterrupt` that a library loses: it was heard."""
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            self._former_hook(lost)

    def _ask(self) -> None:
        """Waits until the thread has heard all signals so far."""
        self._answered.clear()
        os.write(self._write, bytes([_QUESTION]))
        self._answered.wait(GRACE_S)

    def _listen(self) -> None:
        """The thread: hears signals in their order, and ends the process if needed."""
        came_s, left_s = 0.0, None
        while True:
            if self._came:
                left_s = max(0.0, came_s + GRACE_S - time.monotonic())
            if not select.select([self._read], [], [], left_s)[0]:
                self._end(self._came)
            heard = os.read(self._read, 1024)
            if not heard:  # closed
                return
            for number in heard:
                if number == _QUESTION:
                    self._answered.set()
                elif number not in self._former:  # of a library's own handler
                    continue
                elif not self._came and self._working:
                    self._came, came_s = number, time.monotonic()
                    self._mute()
                elif not self._came or time.monotonic() > came_s + _ONE_SIGNAL_S:
                    self._end(number)

    def _mute(self) -> None:
        """Silences standard error, where libraries complain of interrupted work."""
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)

    def _end(self, number: int) -> None:
        self.say(self._came or number)
        with contextlib.suppress(OSError):
            if os.isatty(1):  # bars hide it
                os.write(1, _SHOW_CURSOR)
        os._exit(128 + (self._came or number))


def _copy_of_stderr() -> int:
    try:
        return os.dup(2)
    except OSError:  # it is closed
        return os.open(os.devnull, os.O_WRONLY)


_ending: Ending | None = None  # of this process, as signals are


def install() -> None:
    """Hears signals until the process ends; for the first line of a command."""
    global _ending
    _ending = Ending()
    atexit.register(_ending.leave)  # the first registered is the last that is called


@contextlib.contextmanager
def hearing() -> Iterator[Ending]:
    """Gives the `Ending` of `install`, or makes one for this context only."""
    global _ending
    installed, _ending = _ending, _ending or Ending()
    try:
        yield _ending
    finally:
        if installed is None:
            _ending.close()
            _ending = None


def _forget() -> None:
    if _ending is not None:
        _ending.forget()


os.register_at_fork(after_in_child=_forget)
