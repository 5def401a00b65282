"""Rehearses a run with a shrunken model of random weights, on the machine at hand.

    python -m experiments.rehearse --config experiments/configs/paper.yaml \
        [--folder runs/rehearsal_models] [--shrink 64] [--simulate 8] [key=value ...]

Writes a base model and its experts as a user has them, then calls the two commands of
the real run: `experiments.factorize` and `experiments.agent_skills`. Everything is
theirs but the size of the model, the number of problems and children, and some replies,
which are scripted. Killed and started again, it goes on.

Exit codes: those of the two commands.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import jax

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.reports import console
from experiments import agent_skills, factorize
from experiments.rehearsal import world

_FOLDER = "runs/rehearsal_models"


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and rehearses; returns the exit code."""
    args = _parser().parse_intermixed_args(argv)
    code = console.guarded(
        lambda: _write(args), interrupted="Run the command again to go on."
    )
    config = ["--config", str(pathlib.Path(args.folder).absolute() / world.CONFIG)]
    if not code:
        code = factorize.main(config)
    if not code:
        code = agent_skills.main([*config, "--resume"])
    return code


def _parser() -> argparse.ArgumentParser:
    parser = console.config_parser(
        "rehearse",
        description="Rehearse a run with a shrunken model of random weights.",
        epilog="Settings override the config: engine.length=1024.",
    )
    parser.add_argument(
        "--folder",
        type=console.path,
        default=_FOLDER,
        help="where the models and the config of their run are written; default "
        f"{_FOLDER}. The run is in runs/rehearsal",
    )
    numbers = {
        "shrink": (64, "divides width, depth and vocabulary; 1 is the real size"),
        "generations": (6, "children"),
        "problems": (2, "of each task"),
    }
    for name, (default, text) in numbers.items():
        parser.add_argument(
            f"--{name}", type=int, default=default, help=f"{text}; default {default}"
        )
    parser.add_argument(
        "--simulate",
        type=int,
        metavar="DEVICES",
        help="run on so many simulated devices of this machine's CPU; a config without "
        "a mesh gets all of them along tensor",
    )
    return parser


def _write(args: argparse.Namespace) -> int:
    for name in ("generations", "problems"):
        if getattr(args, name) < 1:
            raise BadInputError(
                f"--{name} is {getattr(args, name)}; expected 1 or more."
            )
    if args.simulate is not None:
        if args.simulate < 1:
            raise BadInputError(
                f"--simulate is {args.simulate}; expected 1 or more devices."
            )
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", args.simulate)
    console.set_up_process()
    config = load_config(args.config, args.settings, RunConfig)
    if args.simulate is not None:
        engine = config.engine.model_copy(
            update={"mesh": world.divided_mesh(config, args.simulate)}
        )
        config = config.model_copy(update={"engine": engine})
    sizes = world.Sizes(args.shrink, args.generations, args.problems)
    with console.ConsoleObserver() as observer:
        observer.phase("writing the models")
        folder = pathlib.Path(args.folder).absolute()
        written = world.write_world(config, folder, sizes, observer)
        observer.note(f"the run's config: {written}")
    return console.DONE


if __name__ == "__main__":
    sys.exit(main())
