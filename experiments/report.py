"""Reports one finished run, or compares several with different seeds.

Writes RUN/report/report.html, report.json and PNGs, and prints the table.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from rich.console import Console

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.reports import build, terminal


def show(run_dir: str | pathlib.Path, console: Console) -> dict:
    """Writes the report of one run and prints its tables; returns the numbers."""
    report = build.write_report(run_dir)
    split, plain = build.main_split(report), not console.is_terminal
    console.print(terminal.score_table(report, split, plain=plain))
    console.print()
    console.print(terminal.paired_table(report, split, plain=plain))
    console.print()
    page = pathlib.Path(run_dir) / "report" / "report.html"
    console.print(f"report: {page}", soft_wrap=True, highlight=False, markup=False)
    return report


def make_console() -> Console:
    """A console as wide as the terminal; without one, wide enough for every table."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses and calls; returns 0, or 2 for a folder that cannot be reported."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report", description=__doc__
    )
    parser.add_argument("run", nargs="+", help="run folder, like runs/quickstart")
    runs = parser.parse_args(arguments).run
    console = make_console()
    try:
        if len(runs) == 1:
            show(runs[0], console)
            return 0
        reports = [build.write_report(run) for run in runs]
        splits = {build.main_split(report) for report in reports}
        if len(splits) > 1 or len({tuple(r["tasks"]) for r in reports}) > 1:
            raise BadInputError(
                "The runs have different tasks or splits; expected runs that differ "
                "by seed."
            )
        table = terminal.seeds_table(
            reports, splits.pop(), plain=not console.is_terminal
        )
        console.print(table)
    except BadInputError as err:
        print(err, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
