"""Compares methods over seeds: one run each, and a summary of all of them.

    python -m experiments.compare \
        --config experiments/configs/compare_tiny.yaml [key=value ...]

It goes on with what is in the folder, so it may be interrupted at any time. Exit codes:
0 done, 1 a run failed, 2 bad input, 130 interrupted, 143 terminated.
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
from cycleqd_jax.study import tables
from cycleqd_jax.study.carry_out import carry_out
from cycleqd_jax.study.check import check_study, keep_commits, write_study
from cycleqd_jax.study.publish import publish
from cycleqd_jax.study.records import Records
from cycleqd_jax.study.settings import SUMMARY, CompareConfig, Study, open_study
from cycleqd_jax.study.summary import write_summary


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and compares; returns the exit code."""
    parser = console.config_parser(
        "compare",
        description="Compare methods over seeds: run every method with every seed, and "
        "summarise scores, paired differences and cost.",
        epilog="Settings override the config: seeds=[0,1] settings.problems.test=32.",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with what is in the folder, as is done without it too",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check every method and print the plan; nothing is written",
    )
    parser.add_argument(
        "--publish",
        metavar="FOLDER",
        type=pathlib.Path,
        help="write numbers, table and picture of the result into this folder",
    )
    parser.add_argument(
        "--records",
        metavar="FOLDER",
        type=pathlib.Path,
        help="a small file per finished run: what is there is not run again, so that "
        "several machines can share a comparison, each with seeds of its own",
    )
    return console.run(parser, argv, _compare, kept="What is done is kept")


def _compare(args: argparse.Namespace) -> int:
    config = load_config(args.config, args.settings, CompareConfig)
    study = open_study(config, pathlib.Path(args.config).stem)
    with RunFolder(study.folder, resume=True, trial=args.dry_run):
        study = keep_commits(study, download=not args.dry_run)
        tasks = check_study(study)
        if args.dry_run:
            _show_plan(study)
            return console.DONE
        records = Records(study, tasks, args.records)
        write_study(study, tasks)
        with console.ConsoleObserver() as observer:
            carry_out(study, records, observer)
            observer.phase("writing the summary")
            results = records.results()
            summary = write_summary(study, tasks, results)
            for remark in summary["remarks"]:
                observer.note(remark)
            if args.publish is not None:
                made = results[config.reference][config.seeds[0]].made
                publish(study, summary, made, args.publish)
        out = console.make_console()
        out.print(tables.make_table(summary, plain=not out.is_terminal))
        out.print(f"summary: {study.folder / SUMMARY}", soft_wrap=True, markup=False)
    return console.DONE


def _show_plan(study: Study) -> None:
    """The methods and seeds, and the plan of the reference's first run."""
    config = study.run_config(study.config.reference, study.config.seeds[0])
    with console.ConsoleObserver() as observer:
        with RunFolder(config.run_dir, resume=True, trial=True) as folder:
            plan = run.dry_run(config, folder, observer)
    out = console.Terminal(highlight=False)
    whole = {
        "methods": ", ".join(study.methods),
        "seeds": ", ".join(map(str, study.config.seeds)),
        "runs": str(len(study.cells())),
        "folder": str(study.folder),
    }
    titles = ("Plan", f"Plan of one run of {study.config.reference}")
    for title, rows in zip(titles, (whole, plan_rows(config, plan)), strict=True):
        table = rich.table.Table(title=title, show_header=False)
        for row in rows.items():
            table.add_row(*row)
        out.print(table)
    for sentence in plan_remarks(config, plan):
        out.print(sentence, markup=False)


if __name__ == "__main__":
    sys.exit(main())
