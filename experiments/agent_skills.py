"""Evolves one model with several skills from the experts of one base model.

    python -m experiments.agent_skills \
        --config experiments/configs/quickstart.yaml [key=value ...] [--resume]

Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted, 143 terminated.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import rich.table

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.reports import console, terminal
from cycleqd_jax.reports.plan import plan_remarks, plan_rows
from cycleqd_jax.runs import pods, run
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.mirror import open_mirror
from cycleqd_jax.runs.plan import Plan
from cycleqd_jax.runs.profiling import profiling
from cycleqd_jax.runs.remote import compute_on_cpu


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and runs; returns the exit code."""
    parser = console.config_parser(
        "agent_skills",
        description="Merge the experts of one base model by CycleQD: evolve archives "
        "of specialists, aggregate them into one model, and report on both.",
        epilog="Settings override the config: seed=1 qd.num_generations=48.",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in the run folder; start anew where there is none",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything and print the plan: memory, children, problems, time",
    )
    parser.add_argument(
        "--profile",
        metavar="FOLDER",
        type=console.path,
        help="write a profiler trace of the first batch of children, for TensorBoard "
        "or Perfetto",
    )
    return console.run(parser, argv, _run, kept="What is done is kept")


def _run(args: argparse.Namespace) -> int:
    config = load_config(args.config, args.settings, RunConfig)
    resume, dry_run = args.resume, args.dry_run
    compute_on_cpu(config)
    with (
        pods.joined(config, os.environ, console.end_at_once) as pod,
        console.ConsoleObserver() as observer,
    ):
        if pod.follows:
            pod.follow(observer.note)
            return console.DONE
        with RunFolder(config.run_dir, resume=resume, trial=dry_run) as folder:
            mirror = open_mirror(
                config.mirror,
                folder,
                resume=resume,
                trial=dry_run,
                note=observer.note,
            )
            saved = None if mirror is None else mirror.sync
            run.check_generations(config, folder)
            if dry_run:
                plan = run.dry_run(config, folder, observer, pod.relay)
            elif not run.is_done(config, folder, observer):
                with profiling(observer, args.profile) as traced:
                    run.evolve(config, folder, traced, pod.relay, saved)
                observer.phase("writing the report")
            if not dry_run:
                terminal.show_report(folder.path, console.make_console())
                if saved is not None:
                    saved()
    if dry_run:
        _show_plan(config, plan)
    return console.DONE


def _show_plan(config: RunConfig, plan: Plan) -> None:
    table = rich.table.Table(title="Plan", show_header=False)
    for row in plan_rows(config, plan).items():
        table.add_row(*row)
    terminal = console.Terminal(highlight=False)
    terminal.print(table)
    for sentence in plan_remarks(config, plan):
        terminal.print(sentence, markup=False)


if __name__ == "__main__":
    sys.exit(main())
