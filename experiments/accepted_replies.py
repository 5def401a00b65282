"""Collects the dialogues in which each expert of a run solves its `train` problems.

    python -m experiments.accepted_replies \
        --config experiments/configs/quickstart.yaml --to FOLDER [key=value ...]

The config is that of a run: tasks, experts, problems, engine and sandbox. FOLDER gets a
file of dialogues per task, TASK.jsonl, which `experiments.train_experts` takes as a
source. Killed and started again with the same command, it goes on.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.reports import console
from cycleqd_jax.training.accepted import collect_accepted


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and collects; returns the exit code."""
    parser = console.config_parser(
        "accepted_replies",
        config="the YAML file of a run",
        description="Run every expert over its task's train problems; keep the "
        "dialogues that the verdict accepts.",
    )
    parser.add_argument(
        "--to", required=True, type=console.path, metavar="FOLDER", help="where to"
    )
    return console.run(parser, argv, _collect, kept="What is done is kept")


def _collect(args: argparse.Namespace) -> int:
    config = load_config(args.config, args.settings, RunConfig)
    with console.ConsoleObserver() as observer:
        collect_accepted(config, pathlib.Path(args.to), observer)
    return console.DONE


if __name__ == "__main__":
    sys.exit(main())
