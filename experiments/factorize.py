"""Makes the basis of a run before the run, and keeps it in the user's cache.

python -m experiments.factorize --config experiments/configs/paper.yaml [key=value ...]

Killed and started again with the same command, it goes on where it was.
"""

import argparse
import sys
from collections.abc import Sequence

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.merging.facts import expert_energy_kept
from cycleqd_jax.reports import console
from cycleqd_jax.runs.factorise import factorise
from cycleqd_jax.runs.memory import size_text


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and factorises; returns the exit code."""
    parser = console.config_parser(
        "factorize",
        description="Decompose the experts of a run ahead of it; runs of the same "
        "experts and settings find the basis in the cache.",
    )
    return console.run(parser, argv, _factorize, kept="What is computed is kept")


def _factorize(args: argparse.Namespace) -> int:
    config = load_config(args.config, args.settings, RunConfig)
    with console.ConsoleObserver() as observer:
        made = factorise(config, observer)
        kept = expert_energy_kept(made.basis)
        shares = ", ".join(f"{name} {share:.1%}" for name, share in kept.items())
        observer.note(f"the basis keeps of the experts' energy: {shares}")
        size = size_text(made.path.stat().st_size)
        found = "made" if made.is_new else "was there"
        observer.note(f"{found}: {made.path} ({size})")
    return console.DONE


if __name__ == "__main__":
    sys.exit(main())
