"""Fine-tunes experts, as PEFT adapters or whole models, as a config says.

A config whose `kind` is segmentation trains segmentation models, any other one language
models.

python -m experiments.train_experts \
        --config experiments/configs/quickstart_experts.yaml [key=value ...]

Killed and started again with the same command, it goes on from the last checkpoint.
"""

import argparse
import sys
from collections.abc import Sequence

from cycleqd_jax.config import load_config
from cycleqd_jax.errors import BadInputError, show
from cycleqd_jax.files.yaml import read_mapping
from cycleqd_jax.reports import console
from cycleqd_jax.training.settings import ExpertsSettings, ImagesConfig, TrainConfig

_KINDS = {"text": TrainConfig, "segmentation": ImagesConfig}


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and trains; returns the exit code."""
    parser = console.config_parser(
        "train_experts",
        description="Fine-tune experts; write PEFT folders or whole models.",
    )
    kept = "Experts that are complete are kept, and the last checkpoint of the next one"
    return console.run(parser, argv, _train, kept=kept)


def load(path: str, settings: Sequence[str]) -> ExpertsSettings:
    """Reads a training config of any kind.

    Raises:
      BadInputError: the kind is unknown, or as of `load_config`.
    """
    kind = read_mapping(path).get("kind", "text")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise BadInputError(
            f"{path}: kind is {show(kind)}; expected one of {', '.join(_KINDS)}."
        )
    return load_config(path, settings, _KINDS[kind])


def _train(args: argparse.Namespace) -> int:
    config = load(args.config, args.settings)
    with console.ConsoleObserver() as observer:
        if isinstance(config, ImagesConfig):
            # Each kind is imported alone: images need no engine and no tokeniser.
            from cycleqd_jax.training.images.run import train_image_experts

            train_image_experts(config, observer)
        else:
            from cycleqd_jax.training.run import train_experts

            train_experts(config, observer)
    return console.DONE


if __name__ == "__main__":
    sys.exit(main())
