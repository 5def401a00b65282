"""Terminal side of the commands: exit codes, progress, the compile cache."""

import argparse
import contextlib
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import jax
import rich.console
import rich.text
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cycleqd_jax.errors import MEND_CODE, BadInputError, CycleQDError, printable
from cycleqd_jax.files import cache_folder, home
from cycleqd_jax.progress import BatchSummary, Observer
from cycleqd_jax.reports import ending

DONE, FAILED, BAD_INPUT = 0, 1, 2


class Terminal(rich.console.Console):
    """Standard output; it shows texts as they are, and a closed one is an error.

    No text moves the cursor or changes its neighbours: what a terminal would obey is
    shown as an escape, in lines and in the cells of tables.
    """

    def render_str(self, text: str, **options) -> rich.text.Text:
        """The text without control characters; all that is printed comes by here."""
        return super().render_str(printable(text, keep="\n"), **options)

    def on_broken_pipe(self) -> None:
        """Raises the `BrokenPipeError`; Rich would end the process without a word."""
        raise


def make_console() -> Terminal:
    """A console as wide as the terminal; without one, wide enough for every table."""
    found = Terminal(highlight=False)
    return found if found.is_terminal else Terminal(highlight=False, width=200)


def config_parser(
    command: str, *, config: str = "a YAML file of settings", **texts: str
) -> argparse.ArgumentParser:
    """The parser of a command that takes a config and settings that override it.

    Args:
      command: the module's name in `experiments`.
      config: help of the option `--config`.
      texts: further arguments of the parser, like its description.
    """
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{command}", **texts)
    parser.add_argument("--config", required=True, type=path, help=config)
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings that override it"
    )
    return parser


def run(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    work: Callable[[argparse.Namespace], int],
    *,
    kept: str,
) -> int:
    """Parses the command line of a config and does the work; returns the exit code.

    Args:
      parser: of `config_parser`.
      argv: the arguments; None takes those of the process.
      work: gets what was parsed, returns an exit code; see `guarded`.
      kept: says after an interruption what is kept; the command to go on with follows.
    """
    args = parser.parse_intermixed_args(argv)
    again = [sys.executable, *parser.prog.split()[1:], *(argv or sys.argv[1:])]
    if getattr(args, "resume", None) is False:
        again.append("--resume")

    def begin() -> int:
        set_up_process()
        return work(args)

    return guarded(begin, interrupted=f"{kept}; go on with: {shlex.join(again)}")


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
    number of the signal, whatever a library made of it.

    Args:
      command: returns an exit code.
      interrupted: what to say after Ctrl-C and failures that are nobody's fault.
    """
    with ending.hearing() as signals:
        failure = None
        try:
            signals.begin(interrupted)
            code = command()
            if sys.stdout is not None:  # it is, where the shell closed it
                sys.stdout.flush()
            signals.finish()
        except BaseException as err:  # noqa: BLE001 - after a signal it may be any
            failure = err
        number = signals.finish()
        if isinstance(failure, KeyboardInterrupt):
            number = number or signal.SIGINT
        if number:
            signals.say(number)
            code = 128 + number
        elif failure is not None:
            code = _explain(failure, interrupted)
        signals.leave_with(code)
        return code


def end_at_once(sentence: str) -> NoReturn:
    """Ends this process, from any thread; what is written survives that."""
    _say(f"Failed: {sentence}")
    os._exit(FAILED)


def _explain(failure: BaseException, interrupted: str) -> int:
    """Says what went wrong; returns the exit code.

    Raises:
      BaseException: `failure`, if it is a fault of this program.
    """
    match failure:
        case BadInputError():
            _say(f"Bad input: {failure}")
            return BAD_INPUT
        case BrokenPipeError():
            _mute_output()
            _say(f"Failed: {failure.filename or 'what read the output'} was closed.")
        case CycleQDError() | OSError() | MemoryError() | jax.errors.JaxRuntimeError():
            _say(f"Failed: {_sentence(failure)}")
            if MEND_CODE in str(failure):  # which says how to go on after that
                return FAILED
        case _:
            raise failure
    _say(interrupted)
    return FAILED


def _say(text: str) -> None:
    with contextlib.suppress(OSError, AttributeError):  # standard error may be closed
        sys.stderr.write(printable(f"{text}\n", keep="\n"))
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
        stream = stream or sys.stdout
        self._console = Terminal(file=stream, highlight=False, soft_wrap=True)
        # FORCE_COLOR, which notebooks set, lets Rich take anything for a terminal.
        self._moves = self._console.is_terminal and stream.isatty()
        self._bars: Progress | None = None
        self._start = time.monotonic()
        self._batch_seconds: list[float] = []
        self._tenths = 0  # of the basis, in plain output

    def __enter__(self) -> "ConsoleObserver":
        if self._moves:
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
            self._parameters = self._bars.add_task(
                "parameters of the basis", total=None, visible=False
            )
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

    def parameters(self, done: int, total: int) -> None:
        """Moves the bar; in plain output there is a line for every tenth."""
        if self._bars is not None:
            self._bars.update(
                self._parameters, completed=done, total=total, visible=done < total
            )
        elif 10 * done // total > self._tenths:
            self._tenths = 10 * done // total
            self._line(f"{done} of {total} parameters of the basis")

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
