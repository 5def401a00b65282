"""Measures what this library promises, against what else there is.

    python -m experiments.benchmark --suite generation [--json FILE] [--write-docs]

Exit codes: 0 measured (a target that was missed is shown, and is no failure), 1 it
could not be measured, 2 bad input, 130 interrupted, 143 terminated.
"""

import argparse
import importlib
import pathlib
import shlex
import sys
from collections.abc import Sequence

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import write_text
from cycleqd_jax.reports import console
from experiments.benchmarks import frame

DOCS = "docs/benchmarks.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and measures; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmark",
        description="Measures one suite. Nothing else should run on the machine.",
    )
    parser.add_argument("--suite", required=True, choices=frame.SUITES)
    parser.add_argument(
        "--model",
        help="a base model, as in a config; default: the quickstart's; of the suite "
        "serve a small random model, or the config or the folder of a run",
    )
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="only the model's sizes are needed, as of llama-3-8b",
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="measurements of each side, at least 5"
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        type=console.path,
        help="of the suite tasks: the folder with mbpp_plus.jsonl, dbbench and "
        "os_interaction",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=console.path,
        help="where the rows are written",
    )
    parser.add_argument(
        "--write-docs",
        nargs="?",
        const=DOCS,
        metavar="FILE",
        type=console.path,
        help=f"replace this suite's section there; default {DOCS}",
    )
    given = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(given)
    return console.guarded(
        lambda: _run(
            args, shlex.join(["python", "-m", "experiments.benchmark", *given])
        ),
        interrupted="Nothing was written; run the command again.",
    )


def _run(args: argparse.Namespace, command: str) -> int:
    console.set_up_process()
    for path in filter(None, (args.json, args.write_docs)):
        if not pathlib.Path(path).parent.is_dir():
            raise BadInputError(f"{path}: expected a file in a folder that is there.")
    out = console.make_console()
    suite = importlib.import_module(f"experiments.benchmarks.{args.suite}")
    model = args.model or getattr(suite, "MODEL", frame.DEFAULT_MODEL)
    options = frame.Options(model, args.random_weights, args.repeats, args.data)
    rows = suite.run(options, lambda text: out.print(f"... {text}", markup=False))
    out.print(frame.table(args.suite, rows))
    if args.json:
        write_text(pathlib.Path(args.json), frame.to_json(args.suite, options, rows))
    if args.write_docs:
        frame.write_section(args.write_docs, args.suite, options, rows, command)
    return console.DONE


if __name__ == "__main__":
    sys.exit(main())
