"""Measures what a merge has kept of language, with lm-evaluation-harness.

    python -m experiments.language \
        --config experiments/configs/language.yaml [key=value ...]

Asks base, experts and result of a run (or models by path) any of the harness's tasks,
prints their scores relative to the base, and writes language.json.
The same command, started again, continues after the last finished task.
"""

import argparse
import collections
import importlib
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

import rich.markup
import rich.table

from cycleqd_jax.config import load_config
from cycleqd_jax.reports import console
from cycleqd_jax.runs.language_settings import LanguageConfig
from cycleqd_jax.runs.names import BASE
from cycleqd_jax.tasks import harness


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and measures; returns the exit code."""
    parser = console.config_parser(
        "language",
        description="Ask models the tasks of lm-evaluation-harness and compare them "
        "with the base.",
        epilog="Settings override the config: tasks=[rte,sst2] limit=100.",
    )
    args = parser.parse_intermixed_args(argv)
    again = console.again("language", args)
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
    harness.check_installed("language")
    language = importlib.import_module("cycleqd_jax.runs.language")
    with console.ConsoleObserver() as observer:
        result = language.measure(config, output, observer)
    out = console.make_console()
    out.print(_table(result, plain=not out.is_terminal))
    out.print(f"written: {output}/language.json", soft_wrap=True, highlight=False)
    return console.DONE


def _table(result: Mapping, *, plain: bool) -> rich.table.Table:
    """One row per task and metric, one column per model; the means come last."""
    title, models = f"scores, and relative to {BASE}", result["models"]
    table = rich.table.Table("task", "metric", title=title, safe_box=plain)
    for name in models:
        table.add_column(name, justify="right")
    lines = collections.defaultdict(dict)
    for row in result["scores"]:
        if not row["is_part"]:
            share = "" if row["model"] == BASE else f" ({_share(row['relative'])})"
            line = lines[row["asked"], row["task"], row["metric"]]
            line[row["model"]] = f"{row['value']:.4f}{share}"
    for (_, task, metric), line in lines.items():
        cells = (line.get(name, "-") for name in models)
        table.add_row(task, rich.markup.escape(metric), *cells)
    means = (_share(result["mean_relative"][name]) for name in models)
    table.add_row("mean", "relative", *means)
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    sys.exit(main())
