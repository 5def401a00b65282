"""Turns a config of mergekit or mergekit-evolve into a config of a run.

    python -m experiments.from_mergekit FILE.yml --tasks TASK,TASK [--to FILE.yaml]

What cannot be said exactly is refused in one sentence. Without --to the config is
printed. Exit codes: 0 done, 2 bad input.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files.yaml import read_mapping
from cycleqd_jax.reports import console
from cycleqd_jax.study.mergekit import convert


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and converts; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.from_mergekit",
        description="Turn a config of mergekit or mergekit-evolve into one of a run.",
    )
    parser.add_argument("file", type=console.path, help="like merge.yml")
    parser.add_argument(
        "--tasks",
        default="",
        metavar="TASK,TASK",
        help="on which merges are scored: built-in names or import paths",
    )
    parser.add_argument(
        "--base-model",
        help="from which all models were trained, where the file does not say it",
    )
    parser.add_argument("--to", type=console.path, help="a new file")
    args = parser.parse_args(argv)
    return console.guarded(lambda: _convert(args), interrupted="Nothing was written.")


def _convert(args: argparse.Namespace) -> int:
    target = None if args.to is None else pathlib.Path(args.to)
    if target is not None and target.exists():
        raise BadInputError(f"--to: {args.to} exists; choose another.")
    data = read_mapping(args.file)
    tasks = [name.strip() for name in args.tasks.split(",") if name.strip()]
    try:
        text = convert(data, tasks, args.base_model).text(args.file)
    except BadInputError as err:
        raise BadInputError(f"{args.file}: {err}") from err
    if target is None:
        print(text, end="")
    else:
        files.write_text(target, text)
        print(f"written: {args.to}")
    return console.DONE


if __name__ == "__main__":
    sys.exit(main())
