"""Puts what `experiments.scale_check --json` found into a document, and draws growth.

    python -m experiments.scale_report FILE... [--write-docs] [--plot FILE]

The table has a row for each program of each file. The plot has a curve for each number
(individuals, slots, chips) that varies between files which are the same otherwise.

Exit codes: 0 written, 2 bad input.
"""

import argparse
import json
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import write_text
from cycleqd_jax.reports import console
from experiments.scale import growth, table

DOCS, PLOT = "docs/scale.md", "docs/images/scale_growth.png"
_SECTION = re.compile(r"(<!-- begin figures -->\n).*?(<!-- end figures -->)", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and writes; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.scale_report",
        description="Table and plot of what scale_check found.",
    )
    parser.add_argument(
        "files", nargs="+", type=console.path, help="written by scale_check --json"
    )
    parser.add_argument(
        "--write-docs",
        nargs="?",
        const=DOCS,
        metavar="FILE",
        type=console.path,
        help=f"replace the table there; default {DOCS}",
    )
    parser.add_argument(
        "--plot",
        nargs="?",
        const=PLOT,
        metavar="FILE",
        type=console.path,
        help=f"draw the growth of memory and step time; default {PLOT}",
    )
    args = parser.parse_args(argv)
    return console.guarded(lambda: _run(args), interrupted="Run the command again.")


def _run(args: argparse.Namespace) -> int:
    found = [read(path) for path in args.files]
    text = table.markdown(found)
    if args.write_docs:
        path = pathlib.Path(args.write_docs)
        if not path.is_file() or not _SECTION.search(old := path.read_text("utf-8")):
            raise BadInputError(
                f"{path}: expected a document with the lines <!-- begin figures --> "
                "and <!-- end figures -->."
            )
        write_text(path, _SECTION.sub(lambda m: f"{m[1]}{text}{m[2]}", old))
    if args.plot:
        series = growth.series(found)
        if not series:
            raise BadInputError(
                "files: expected some that differ in individuals, slots or chips alone."
            )
        pathlib.Path(args.plot).write_bytes(growth.draw(series))
    out = console.make_console()
    out.print(text, markup=False)
    return console.DONE


def read(path: str) -> dict[str, Any]:
    """The content of one file.

    Raises:
      BadInputError: it is not one of scale_check.
    """
    try:
        data = json.loads(pathlib.Path(path).read_text("utf-8"))
        missing = {"model", "topology", "programs", "limits"} - data.keys()
    except OSError as err:
        raise BadInputError(f"{path}: cannot be read ({err.strerror}).") from err
    except (ValueError, AttributeError) as err:
        raise BadInputError(f"{path}: expected JSON of scale_check --json.") from err
    if missing:
        raise BadInputError(
            f"{path}: expected JSON of scale_check --json; it lacks {min(missing)}."
        )
    return data


if __name__ == "__main__":
    sys.exit(main())
