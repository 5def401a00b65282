"""Merges segmentation experts two by two and all together: the paper's Table 4.

    python -m experiments.segmentation \
        --config experiments/configs/segmentation_quickstart.yaml [key=value ...]

Every run has a folder of its own, which `experiments.report` and `experiments.export`
take. It goes on with what is in the folder, so it may be interrupted at any time. Exit
codes: 0 done, 1 a run failed, 2 bad input, 130 interrupted, 143 terminated.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import rich.table

from cycleqd_jax.config import load_config
from cycleqd_jax.reports import console
from cycleqd_jax.reports.plan import plan_remarks, plan_rows
from cycleqd_jax.runs import run
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.study.kept import summarise, table_rows, write_summary
from cycleqd_jax.study.segmentation import (
    Group,
    SegmentationConfig,
    carry_out,
    make_groups,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and runs; returns the exit code."""
    parser = console.config_parser(
        "segmentation",
        description="Merge segmentation experts by CycleQD, all pairs and all of them, "
        "and say which share of their scores is kept.",
        epilog="Settings override the config: settings.problems.test=32.",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with what is in the folder, as is done without it too",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check every run and print the plans; nothing is written",
    )
    return console.run(parser, argv, _merge, kept="What is done is kept")


def _merge(args: argparse.Namespace) -> int:
    config = load_config(args.config, args.settings, SegmentationConfig)
    groups = make_groups(config, pathlib.Path(args.config).stem)
    folder = pathlib.Path(groups[0].search.run_dir).parents[1]
    if args.dry_run:
        _show_plans(groups)
        return console.DONE
    with console.ConsoleObserver() as observer:
        carry_out(groups, observer)
        observer.phase("writing the summary")
        summary = summarise(groups, config.resamples)
        place = write_summary(summary, groups, folder)
    out = console.make_console()
    titles, rows = table_rows(summary)
    table = rich.table.Table(title="percent kept of the experts' own test scores")
    for title in titles:
        table.add_column(title, justify="left" if title == "experts" else "right")
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    out.print(table)
    out.print(f"summary: {place}", soft_wrap=True, markup=False, highlight=False)
    return console.DONE


def _show_plans(groups: Sequence[Group]) -> None:
    """Checks every run; shows the plans of a pair and of all experts together."""
    out = console.Terminal(highlight=False)
    shown = {groups[0].name, groups[-1].name}
    for group in groups:
        plans = []
        with console.ConsoleObserver() as observer:
            for config in (group.search, group.closed_form):
                with RunFolder(config.run_dir, resume=True, trial=True) as folder:
                    plans.append(run.dry_run(config, folder, observer))
        if group.name not in shown:
            continue
        table = rich.table.Table(title=f"Plan of {group.name}", show_header=False)
        for row in plan_rows(group.search, plans[0]).items():
            table.add_row(*row)
        out.print(table)
        for sentence in plan_remarks(group.search, plans[0]):
            out.print(sentence, markup=False)
    runs = 2 * len(groups)
    out.print(f"{runs} runs: {', '.join(group.name for group in groups)}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
