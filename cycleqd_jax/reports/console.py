"""Terminal side of the commands: exit codes, progress, the compile cache."""

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax
import rich.console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cycleqd_jax.errors import BadInputError, CycleQDError
from cycleqd_jax.files import cache_folder, home
from cycleqd_jax.progress import BatchSummary, Observer

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
_ENDED_BY = {signal.SIGTERM: "Terminated", signal.SIGHUP: "The terminal was closed"}


class Terminal(rich.console.Console):
    """Standard output; one that was closed is an error like any other."""

    def on_broken_pipe(self) -> None:
        """Raises the `BrokenPipeError`; Rich would end the process without a word."""
        raise


def make_console() -> Terminal:
    """A console as wide as the terminal; without one, wide enough for every table."""
    found = Terminal(highlight=False)
    return found if found.is_terminal else Terminal(highlight=False, width=200)


def path(text: str) -> str:
    """The type of an argument that is a path: `~` is the home folder."""
    try:
        return home(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err


def set_up_process() -> None:
    """Keeps compiled programs between runs, outside the repository; quiets advice."""
    # Without PyTorch, which is not needed, transformers says so at every start.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # Orbax logs tracebacks of what it raises, and a warning with every checkpoint.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = cache_folder("cycleqd_jax", "xla")
        jax.config.update("jax_compilation_cache_dir", str(folder))


def guarded(command: Callable[[], int], *, interrupted: str) -> int:
    """Runs a command; says in one sentence what went wrong, and returns the exit code.

    SIGTERM and SIGHUP end a command as Ctrl-C does; the exit code is 128 and the
    number of the signal.

    Args:
      command: returns an exit code.
      interrupted: what to say after Ctrl-C and failures that are nobody's fault.
    """
    with _ending_signals() as received:
        try:
            return command()
        except KeyboardInterrupt:
            number = received[0] if received else signal.SIGINT
            _say(f"\n{_ENDED_BY.get(number, 'Interrupted')}. {interrupted}")
            return 128 + number
        except BadInputError as err:
            _say(f"Bad input: {err}")
            return BAD_INPUT
        except BrokenPipeError as err:
            _mute_output()
            _say(f"Failed: {err.filename or 'what read the output'} was closed.")
            _say(interrupted)
            return FAILED
        except (CycleQDError, OSError, MemoryError, jax.errors.JaxRuntimeError) as err:
            _say(f"Failed: {_sentence(err)}")
            _say(interrupted)
            return FAILED


@contextlib.contextmanager
def _ending_signals() -> Iterator[list[int]]:
    """Makes SIGTERM and SIGHUP do what Ctrl-C does; yields those that came."""
    received: list[int] = []

    def end(number: int, frame) -> None:
        received.append(number)
        # Whoever handles Ctrl-C just now, like asyncio, knows how to end what runs.
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    former = {}
    if threading.current_thread() is threading.main_thread():
        for number in _ENDED_BY:
            # nohup has SIGHUP ignored, and means it.
            if signal.getsignal(number) == signal.SIG_DFL:
                former[number] = signal.signal(number, end)
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # standard error may be closed too
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _sentence(err: BaseException) -> str:
    if isinstance(err, MemoryError):
        return "this machine's memory is used up."
    if isinstance(err, OSError) and err.errno:
        name = f"{err.filename}: " if err.filename is not None else ""
        return f"{name}{os.strerror(err.errno)}."
    return " ".join(str(err).split()) or type(err).__name__


def _mute_output() -> None:
    """Python flushes standard output once more at its end; nobody reads it."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class ConsoleObserver(Observer):
    """Progress bars on a terminal, plain lines elsewhere."""

    def __init__(self, stream=None):
        self._console = Terminal(
            file=stream or sys.stdout, highlight=False, soft_wrap=True
        )
        self._bars: Progress | None = None
        self._start = time.monotonic()
        self._batch_seconds: list[float] = []

    def __enter__(self) -> "ConsoleObserver":
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bars.start()
            self._children = self._bars.add_task("children", total=None, visible=False)
            self._episodes = self._bars.add_task("episodes", total=None, visible=False)
        return self

    def __exit__(self, *error) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _line(self, text: str) -> None:
        elapsed = time.monotonic() - self._start
        self._console.print(
            f"[{int(elapsed // 60):3d}:{elapsed % 60:04.1f}] {text}", markup=False
        )

    def note(self, text: str) -> None:
        """One line."""
        self._line(text)

    def phase(self, name: str) -> None:
        """One line, and a bar for its episodes."""
        self._line(name)
        if self._bars is not None:
            self._bars.reset(self._episodes, total=None, visible=False)

    def episodes(self, done: int, total: int) -> None:
        """Moves the bar; plain output is not told of single episodes."""
        if self._bars is not None:
            self._bars.update(
                self._episodes, completed=done, total=total, visible=done < total
            )

    def batch(self, summary: BatchSummary) -> None:
        """One line per batch: best per skill, children per minute, time left."""
        self._batch_seconds.append(summary.seconds)
        recent = self._batch_seconds[-5:]
        per_minute = 60 * summary.children * len(recent) / sum(recent)
        left = (summary.num_generations - summary.generation) / per_minute
        best = "  ".join(f"{task} {q:.3f}" for task, q in summary.best.items())
        self._line(
            f"child {summary.generation}/{summary.num_generations}  best: {best}  "
            f"{per_minute:.1f} children/min  {left:.1f} min left"
        )
        if summary.usage is not None:
            u = summary.usage
            self._line(
                f"  {u.prefill_rate:.0f} prompt and {u.decode_rate:.0f} new tokens/s, "
                f"{u.occupancy:.0%} of slots busy; time: {u.device:.0%} model, "
                f"{u.sandbox:.0%} sandbox, {u.python:.0%} else"
            )
        if self._bars is not None:
            self._bars.update(
                self._children,
                completed=summary.generation,
                total=summary.num_generations,
                visible=summary.generation < summary.num_generations,
            )
