"""Fine-tunes experts, as PEFT adapters or whole models, as a config says.

python -m experiments.train_experts \
        --config experiments/configs/quickstart_experts.yaml [key=value ...]

Killed and started again with the same command, it goes on from the last checkpoint.
"""

import sys
from collections.abc import Sequence

from cycleqd_jax.config import load_config
from cycleqd_jax.reports import console
from cycleqd_jax.training.run import train_experts
from cycleqd_jax.training.settings import TrainConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and trains; returns the exit code."""
    parser = console.config_parser(
        "train_experts",
        description="Fine-tune experts; write PEFT folders or whole models.",
    )
    args = parser.parse_intermixed_args(argv)
    return console.guarded(
        lambda: _train(load_config(args.config, args.settings, TrainConfig)),
        interrupted="Experts that are complete are kept, and the one in training goes "
        "on from its last checkpoint: run the command again.",
    )


def _train(config: TrainConfig) -> int:
    console.set_up_process()
    with console.ConsoleObserver() as observer:
        train_experts(config, observer)
    return console.DONE


if __name__ == "__main__":
    sys.exit(main())
