"""Measures what a merge has kept of language, with lm-evaluation-harness.

    python -m experiments.language \
        --config experiments/configs/language.yaml [key=value ...]

Asks base, experts and result of a run, or models by path, any of the harness's tasks;
prints scores relative to the base, writes language.json. Started again, it goes on.
"""

import argparse
import os
import pathlib
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Column, Table

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
    return console.run(parser, argv, _measure, kept="Tasks that were finished are kept")


def _measure(args: argparse.Namespace) -> int:
    # The harness and tokenisers would fork a process that has threads.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config = load_config(args.config, args.settings, LanguageConfig)
    named = f"runs/{pathlib.Path(args.config).stem}"
    output = config.output or (f"{config.run}/language" if config.run else named)
    harness.check_installed("language")
    from cycleqd_jax.runs.language import measure

    with console.ConsoleObserver() as observer:
        result = measure(config, output, observer)
    out = console.make_console()
    out.print(_table(result, plain=not out.is_terminal))
    out.print(f"written: {output}/language.json", soft_wrap=True, highlight=False)
    return console.DONE


def _table(result: Mapping, *, plain: bool) -> Table:
    """One row per task and metric, one column per model; the means come last."""
    title, models = f"scores, and relative to {BASE}", result["models"]
    columns = (Column(name, justify="right") for name in models)
    table = Table("task", "metric", *columns, title=title, safe_box=plain)
    lines = defaultdict(dict)
    for row in result["scores"]:
        if not row["is_part"]:
            share = "" if row["model"] == BASE else f" ({_share(row['relative'])})"
            line = lines[row["asked"], row["task"], row["metric"]]
            line[row["model"]] = f"{row['value']:.4f}{share}"
    for (_, task, metric), line in lines.items():
        table.add_row(task, escape(metric), *(line.get(name, "-") for name in models))
    table.add_row("mean", "relative", *map(_share, result["mean_relative"].values()))
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    sys.exit(main())
