"""Correlates the similarity of experts with what their merged model scores.

    python -m experiments.similarity RUN RUN ... [--out FOLDER]

Each RUN is the folder of a finished run of two tasks with an expert each. Prints a row
per pair and the correlation with its 95 % interval, and with --out writes
similarity.json and similarity.png. Exit codes: 0 done, 2 bad input.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from rich.table import Table

from cycleqd_jax import files
from cycleqd_jax.reports import console
from cycleqd_jax.study.similarity import compare_pairs, draw_pairs, read_pair


def main(argv: Sequence[str] | None = None) -> int:
    """Parses and calls; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.similarity",
        description="Correlate the similarity of two experts with the test score of "
        "their merged model, over finished runs of two experts each.",
    )
    parser.add_argument("run", nargs="+", type=console.path, help="run folders")
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=pathlib.Path,
        help="write similarity.json and similarity.png into this folder",
    )
    args = parser.parse_args(argv)
    return console.guarded(lambda: _compare(args), interrupted="Run the command again.")


def _compare(args: argparse.Namespace) -> int:
    found = compare_pairs([read_pair(pathlib.Path(run)) for run in args.run])
    table = Table(title="merged models of two experts", title_justify="left")
    for title in ("experts", "similarity", "merged", "experts' own", "kept"):
        table.add_column(title, justify="left" if title == "experts" else "right")
    for row in found["pairs"]:
        numbers = (row["similarity"], row["merged"], row["experts_own"], row["kept"])
        table.add_row(" + ".join(row["experts"]), *(f"{x:.3f}" for x in numbers))
    out = console.make_console()
    out.print(table)
    names = {"merged": "the merged score", "kept": "the share kept"}
    for name, words in names.items():
        r = found["correlation"][name]
        out.print(
            f"correlation of similarity with {words}: {r['value']:.2f} "
            f"({r['low']:.2f} to {r['high']:.2f})",
            markup=False,
        )
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        files.write_json(args.out / "similarity.json", found)
        files.write_bytes(args.out / "similarity.png", draw_pairs(found))
    return console.DONE


if __name__ == "__main__":
    sys.exit(main())
