"""Tables for a terminal, or plain ASCII text where there is none."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
from rich.console import Console
from rich.table import Table

from cycleqd_jax.reports import build, statistics, tables
from cycleqd_jax.runs.names import expert_name
from cycleqd_jax.search.merges import SCALED, UNIFORM

_BEST_EXPERT = "best expert"


def show_report(run_dir: str | pathlib.Path, out: Console) -> dict:
    """Writes the report of one run and prints its tables; returns the numbers."""
    report = build.write_report(run_dir)
    split, plain = build.main_split(report), not out.is_terminal
    out.print(score_table(report, split, plain=plain))
    out.print()
    out.print(paired_table(report, split, plain=plain))
    out.print()
    if (more := metrics_table(report, split, plain=plain)) is not None:
        out.print(more)
        out.print()
    if report["out_of_domain"]:
        out.print(out_of_domain_table(report, plain=plain))
        out.print()
    if tokens := report["cost"]["tokens_without_test"]:
        unit = report.get("unit", "tokens")
        out.print(f"cost without test: {tokens:,} {unit}", highlight=False)
    page = pathlib.Path(run_dir) / "report" / "report.html"
    out.print(f"report: {page}", soft_wrap=True, highlight=False, markup=False)
    return report


def score_table(report: Mapping[str, Any], split: str, *, plain: bool = False) -> Table:
    """Every model's scores on one split with 95 % intervals."""
    why = report["selected_on"].get(split)
    title = f"scores on {split} (selected: {why})" if why else f"scores on {split}"
    table = _new_table(title, plain)
    columns = [*report["tasks"], "mean"]
    table.add_column("model", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")  # breaks between score and interval
    for name, splits in report["models"].items():
        if split not in splits:
            continue
        entry = splits[split]
        cells = [_score_cell(entry, column) for column in columns]
        table.add_row(name, *cells, style="bold" if name == report["result"] else None)
    return table


def _score_cell(entry: Mapping[str, Any], column: str) -> str:
    if column not in entry:
        return "-"
    low, high = entry["interval"][column]
    return f"{entry[column]:.3f} \\[{low:.2f},{high:.2f}]"


def paired_table(
    report: Mapping[str, Any], split: str, *, plain: bool = False
) -> Table:
    """The result against every other model, paired by problem."""
    table = _new_table(f"paired differences of the mean on {split}", plain)
    table.add_column(f"{report['result']} minus", no_wrap=True)
    for name in ("difference", "standard error", "won", "lost"):
        table.add_column(name, justify="right", no_wrap=True)
    for pair in report["paired"]:
        if pair["split"] == split:
            table.add_row(
                pair["against"],
                f"{pair['difference']:+.3f}",
                f"{pair['standard_error']:.3f}",
                str(pair["won"]),
                str(pair["lost"]),
            )
    return table


def metrics_table(
    report: Mapping[str, Any], split: str, *, plain: bool = False
) -> Table | None:
    """The table of tasks' own metrics, a row each; None where there are none."""
    names = tables.metric_names(report, split)
    if not names:
        return None
    table = _new_table(f"beside the score, on {split}", plain)
    table.add_column("task", no_wrap=True)
    table.add_column("mean of")
    columns = ("base", "its expert", UNIFORM, report["result"])
    for column in columns:
        table.add_column(column, justify="right")
    for task, metrics in names.items():
        models = ("base", expert_name(task), *columns[2:])
        means = [
            report["metrics"].get(model, {}).get(split, {}).get(task, {})
            for model in models
        ]
        for metric in metrics:
            cells = (f"{m[metric]:.3f}" if metric in m else "-" for m in means)
            table.add_row(task, metric, *cells)
    return table


def out_of_domain_table(report: Mapping[str, Any], *, plain: bool = False) -> Table:
    """Every model's scores on tasks that the search did not see; 95 % intervals."""
    found = report["out_of_domain"]
    table = _new_table("out of domain", plain)
    table.add_column("model", no_wrap=True)
    for task in found:
        table.add_column(task, justify="right")
    for model in report["models"]:
        cells = []
        for models in found.values():
            low, high = models[model]["interval"]
            cells.append(f"{models[model]['score']:.3f} \\[{low:.2f},{high:.2f}]")
        style = "bold" if model == report["result"] else None
        table.add_row(model, *cells, style=style)
    return table


def seeds_table(
    reports: Sequence[Mapping[str, Any]], split: str, *, plain: bool = False
) -> Table:
    """Several runs, one row each, and their mean: the means over tasks on one split."""
    table = _new_table(f"means over skills on {split}", plain)
    experts = {expert_name(expert) for expert in reports[0]["experts"]}
    names = [name for name in reports[0]["models"] if name not in experts]
    names.insert(names.index("base") + 1, _BEST_EXPERT)
    gaps = (UNIFORM, SCALED)
    table.add_column("seed", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for name in gaps:
        table.add_column(f"- {name} (s.e.)", justify="right", no_wrap=True)
    rows = [_seed_row(report, split, names, gaps) for report in reports]
    for report, (scores, differences) in zip(reports, rows, strict=True):
        table.add_row(
            str(report["seed"]),
            *(f"{score:.3f}" for score in scores),
            *(f"{gap:+.3f} ({error:.3f})" for gap, error in differences),
        )
    means = [statistics.mean(scores) for scores in _columns([r[0] for r in rows])]
    above = [
        statistics.mean([gap for gap, _ in column])
        for column in _columns([row[1] for row in rows])
    ]
    table.add_row(
        "mean",
        *(f"{score:.3f}" for score in means),
        *(f"{gap:+.3f}" for gap in above),
        style="bold",
    )
    return table


def _columns(rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True))


def _seed_row(
    report: Mapping[str, Any], split: str, names: Sequence[str], gaps: Sequence[str]
) -> tuple[list[float], list[tuple[float, float]]]:
    models = report["models"]
    wanted = [
        tables.best_expert(report, split) if name == _BEST_EXPERT else name
        for name in names
    ]
    pairs = {p["against"]: p for p in report["paired"] if p["split"] == split}
    return (
        [models[name][split]["mean"] for name in wanted],
        [(pairs[name]["difference"], pairs[name]["standard_error"]) for name in gaps],
    )


def _new_table(title: str, plain: bool) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold" if not plain else "",
        box=None if plain else rich.box.SIMPLE_HEAD,
        pad_edge=False,
    )
