"""Scores a segmentation base and its experts on all their data sets, as a table.

python -m experiments.segmentation_table \
        --config experiments/configs/segmentation_experts.yaml [key=value ...]

The config is that of the experts' training. The last row has, for each expert, its
score on its own data set minus the best of all others, the base included.
"""

import argparse
import sys
from collections.abc import Sequence

from cycleqd_jax.config import load_config
from cycleqd_jax.reports import console
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.training.images.table import rival_table
from cycleqd_jax.training.settings import ImagesConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and prints the table; returns the exit code."""
    parser = console.config_parser(
        "segmentation_table", description="Score a base and its experts on images."
    )
    parser.add_argument(
        "--split",
        type=Split,
        choices=list(Split),
        default=Split.TEST,
        help="whose images (default: test)",
    )
    args = parser.parse_intermixed_args(argv)
    return console.guarded(
        lambda: _show(args), interrupted="Nothing was written: run the command again."
    )


def _show(args: argparse.Namespace) -> int:
    console.set_up_process()
    config = load_config(args.config, args.settings, ImagesConfig)
    with console.ConsoleObserver() as observer:
        table = rival_table(config, args.split, observer)
    print(f"{table.images} images of {args.split} each\n\n{table.markdown()}")
    return console.DONE


if __name__ == "__main__":
    sys.exit(main())
