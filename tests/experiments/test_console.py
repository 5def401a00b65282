"""How commands end: exit codes and sentences, whatever ended them."""

import errno
import io
import os
import shlex
import subprocess
import sys

import pytest
import rich.table

from cycleqd_jax.errors import MEND_CODE, BadInputError, RunError
from cycleqd_jax.reports import console


def fail(error: BaseException):
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (BadInputError("seed is -1."), 2, "Bad input: seed is -1."),
        (RunError("it broke."), 1, "Failed: it broke.\nGo on."),
        (KeyboardInterrupt(), 130, "Interrupted. Go on."),
        (OSError(errno.ENOSPC, "", "a/b"), 1, "a/b: No space left on device.\nGo on."),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "was closed.\nGo on."),
        (MemoryError(), 1, "memory is used up.\nGo on."),
    ],
)
def test_every_end_is_a_sentence_and_a_code(error, code, words, capfd, monkeypatch):
    # The command mutes a closed output; the test's own must stay as it is.
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert console.guarded(fail(error), interrupted="Go on.") == code
    assert words in capfd.readouterr().err


def test_a_command_says_how_to_go_on(capfd, monkeypatch):
    monkeypatch.setattr(console, "set_up_process", lambda: None)
    parser = console.config_parser("compare")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--records")
    given = ["seed=1", "--config", "a b.yaml", "--records", "place"]

    def work(args) -> int:
        assert (args.config, args.settings) == ("a b.yaml", ["seed=1"])
        raise KeyboardInterrupt

    assert console.run(parser, given, work, kept="All is kept") == 130
    said = f"{sys.executable} -m experiments.compare {shlex.join(given)} --resume\n"
    assert f"All is kept; go on with: {said}" in capfd.readouterr().err


def test_after_a_mistake_in_own_code_only_its_remedy_is_said(capfd):
    def command() -> int:
        raise RunError(f"search: my:Own: tell raised KeyError; {MEND_CODE}.")

    assert console.guarded(command, interrupted="All is kept; go on.") == 1
    said = capfd.readouterr().err
    assert said.startswith("Failed: search: my:Own") and "All is kept" not in said


def test_no_text_moves_the_cursor(capsys):
    out = console.Terminal(file=sys.stdout, highlight=False, width=80)
    table = rich.table.Table()
    table.add_column("a \x1b[2Jcolumn")
    table.add_row("a \x1b[1Acell\x9b2J")
    out.print(table)
    out.print("a line\r\u202ebackwards \ud83d\nand another", markup=False)
    with console.ConsoleObserver(sys.stdout) as observer:
        observer.note("a \x07note")
    shown = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in shown)
    for words in ("\\x1b[2Jcol", "\\x1b[1Acell\\x9b", "\\r\\u202eback", "\\x07note"):
        assert words in shown
    assert "\nand another" in shown


def test_no_bar_moves_in_what_is_only_coloured(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # so do the cells of notebooks
    out = io.StringIO()
    with console.ConsoleObserver(out) as observer:
        observer.phase("loading")
        observer.episodes(1, 2)
    assert "loading\n" in out.getvalue()
    assert "\x1b[2K" not in out.getvalue() and "\x1b[?25l" not in out.getvalue()


def test_a_closed_output_is_said_on_the_other_stream():
    """The reader of the output ends after one line, as `| head -1` does."""
    program = (
        "import sys, time; from cycleqd_jax.reports import console\n"
        "def command():\n"
        "    with console.ConsoleObserver() as observer:\n"
        "        for i in range(1000): observer.note(f'line {i}'); time.sleep(0.005)\n"
        "    return 0\n"
        "sys.exit(console.guarded(command, interrupted='Go on with --resume.'))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert "line 0" in process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 1
    assert error == "Failed: what read the output was closed.\nGo on with --resume.\n"
