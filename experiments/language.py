"""Measures what a merge has kept of language, with lm-evaluation-harness.

    python -m experiments.language \
        --config experiments/configs/language.yaml [key=value ...]

Asks base, experts and result of a run (or models by path) any of the harness's tasks,
prints their scores relative to the base, and writes language.json and language.parquet.
The same command, started again, continues after the last finished task.
"""

import argparse
import os
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence

import rich.table

from cycleqd_jax.config import load_config
from cycleqd_jax.evaluation.language.settings import LanguageConfig
from cycleqd_jax.reports import console
from cycleqd_jax.runs.language import measure
from cycleqd_jax.runs.names import BASE


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and measures; returns the exit code."""
    parser = console.config_parser(
        "language",
        description="Ask models the tasks of lm-evaluation-harness and compare them "
        "with the base.",
        epilog="Settings override the config: tasks=[rte,sst2] limit=100.",
    )
    args = parser.parse_intermixed_args(argv)
    again = [sys.executable, "-m", "experiments.language", "--config", args.config]
    again = shlex.join([*again, *args.settings])
    return console.guarded(
        lambda: _measure(args),
        interrupted=f"Tasks that were finished are kept; go on with: {again}",
    )


def _measure(args: argparse.Namespace) -> int:
    console.set_up_process()
    # The harness and tokenisers would fork a process that has threads.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config = load_config(args.config, args.settings, LanguageConfig)
    named = f"runs/{pathlib.Path(args.config).stem}"
    output = config.output or (f"{config.run}/language" if config.run else named)
    with console.ConsoleObserver() as observer:
        result = measure(config, output, observer)
    out = console.make_console()
    out.print(_table(result, plain=not out.is_terminal))
    out.print(f"written: {output}/language.json", soft_wrap=True, highlight=False)
    return console.DONE


def _table(result: Mapping, *, plain: bool) -> rich.table.Table:
    """One row per task and metric, one column per model; the means come last."""
    models = list(result["models"])
    table = rich.table.Table(title=f"scores, and relative to {BASE}", safe_box=plain)
    for name in ("task", "metric"):
        table.add_column(name, no_wrap=True)
    for name in models:
        table.add_column(name, justify="right")
    lines: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in result["scores"]:
        text = f"{row['value']:.4f}"
        if row["model"] != BASE:
            text += f" ({_share(row['relative'])})"
        if not row["is_part"]:
            metric = row["metric"].replace("[", "\\[")  # brackets would be markup
            line = lines.setdefault((row["asked"], row["task"], metric), {})
            line[row["model"]] = text
    for (_, task, metric), line in lines.items():
        table.add_row(task, metric, *(line.get(name, "-") for name in models))
    means = map(_share, result["mean_relative"].values())
    table.add_row("mean", "relative", *means)
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    sys.exit(main())
