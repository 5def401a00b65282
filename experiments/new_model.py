"""Makes a small model with random weights and a tokeniser, to be trained from scratch.

python -m experiments.new_model \
        --config experiments/configs/tiny_model.yaml [key=value ...]

Started again with the same settings, it finds its model and keeps it.
"""

import argparse
import sys
from collections.abc import Sequence

from cycleqd_jax.config import load_config
from cycleqd_jax.reports import console
from cycleqd_jax.training.new_model import NewModelConfig, write_new_model


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and writes the model; returns the exit code."""
    parser = console.config_parser(
        "new_model",
        description="Write a model with random weights, to be trained from scratch.",
    )
    return console.run(parser, argv, _make, kept="No model was written")


def _make(args: argparse.Namespace) -> int:
    config = load_config(args.config, args.settings, NewModelConfig)
    with console.ConsoleObserver() as observer:
        write_new_model(config, observer)
    return console.DONE


if __name__ == "__main__":
    sys.exit(main())
