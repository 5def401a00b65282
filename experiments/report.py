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
from experiments import console


def show(run_dir: str | pathlib.Path, out: Console) -> dict:
    """Writes the report of one run and prints its tables; returns the numbers."""
    report = build.write_report(run_dir)
    split, plain = build.main_split(report), not out.is_terminal
    out.print(terminal.score_table(report, split, plain=plain))
    out.print()
    out.print(terminal.paired_table(report, split, plain=plain))
    out.print()
    if (more := terminal.metrics_table(report, split, plain=plain)) is not None:
        out.print(more)
        out.print()
    page = pathlib.Path(run_dir) / "report" / "report.html"
    out.print(f"report: {page}", soft_wrap=True, highlight=False, markup=False)
    return report


def make_console() -> Console:
    """A console as wide as the terminal; without one, wide enough for every table."""
    found = console.Terminal(highlight=False)
    return found if found.is_terminal else console.Terminal(highlight=False, width=200)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses and calls; returns 0, or 2 for a folder that cannot be reported."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report", description=__doc__
    )
    parser.add_argument("run", nargs="+", help="run folder, like runs/quickstart")
    runs = parser.parse_args(arguments).run
    return console.guarded(
        lambda: _report(runs),
        interrupted="The runs are as they were; run the command again.",
    )


def _report(runs: Sequence[str]) -> int:
    out = make_console()
    if len(runs) == 1:
        show(runs[0], out)
        return console.DONE
    reports = [build.write_report(run) for run in runs]
    splits = {build.main_split(report) for report in reports}
    if len(splits) > 1 or len({tuple(r["tasks"]) for r in reports}) > 1:
        raise BadInputError(
            "The runs have different tasks or splits; expected runs that differ by "
            "seed."
        )
    out.print(terminal.seeds_table(reports, splits.pop(), plain=not out.is_terminal))
    return console.DONE


if __name__ == "__main__":
    sys.exit(main())
