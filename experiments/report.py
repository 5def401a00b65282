"""Reports one finished run, or compares several with different seeds.

Writes RUN/report/report.html, report.json and PNGs, and prints the table.
"""

import argparse
import sys
from collections.abc import Sequence

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.reports import build, console, terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses and calls; returns 0, or 2 for a folder that cannot be reported."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report", description=__doc__
    )
    parser.add_argument(
        "run", nargs="+", type=console.path, help="run folder, like runs/quickstart"
    )
    runs = parser.parse_args(arguments).run
    return console.guarded(
        lambda: _report(runs),
        interrupted="The runs are as they were; run the command again.",
    )


def _report(runs: Sequence[str]) -> int:
    out = console.make_console()
    if len(runs) == 1:
        terminal.show_report(runs[0], out)
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
