"""Tables of a comparison, as Markdown and for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
from rich.table import Table

_TITLES = ("method", "mean [95 % interval]", "difference", "p (Holm)", "tokens")


def make_markdown(summary: Mapping[str, Any]) -> str:
    """The content of `table.md`: methods against the reference, and the paper's table.

    Args:
      summary: what is in `summary.json`.
    """
    seeds = ", ".join(map(str, summary["seeds"]))
    clusters = ", ".join(
        f"{summary['problems'][t]} problems of {n} templates in {t}"
        for t, n in summary["clusters"].items()
    )
    parts = [
        "# Comparison",
        f"Scores on `test` over the seeds {seeds}: {clusters}. Errors resample "
        f"templates crossed with seeds, {summary['resamples']} times; differences are "
        f"to `{summary['reference']}`, paired by problem and seed; p-values are "
        "corrected by Holm's method.",
        _markdown(_TITLES, method_rows(summary)),
        "Scores in percent, a row per method, in the form of the paper's tables.",
        _markdown(*paper_table(summary)),
    ]
    if remarks := summary["remarks"]:
        parts.append("\n".join(f"- {remark}" for remark in remarks))
    return "\n\n".join(parts) + "\n"


def method_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """A row per method under `_TITLES`."""
    rows = []
    for name, entry in summary["methods"].items():
        low, high = entry["interval"]
        row = [name, f"{entry['mean']:.3f} [{low:.3f}, {high:.3f}]"]
        if name == summary["reference"]:
            row += ["", ""]
        else:
            low, high = entry["difference_interval"]
            row.append(f"{entry['difference']:+.3f} [{low:+.3f}, {high:+.3f}]")
            row.append(f"{entry['p_value']:.3f}")
        tokens = entry["tokens"]
        rows.append([*row, "unknown" if tokens is None else f"{tokens:,.0f}"])
    return rows


def paper_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows: methods, skills, their mean, and kinds of templates."""
    methods = summary["methods"]
    kinds = [
        k for k in ("trained", "held_out") if k in _reference(summary)["templates"]
    ]
    titles = ["method", *summary["tasks"], "mean"]
    titles += [f"{kind.replace('_', '-')} templates" for kind in kinds]
    has_volume = any(entry["hypervolume"] is not None for entry in methods.values())
    titles += ["hypervolume"] * has_volume + ["tokens to the reference's result"]
    if count := summary["population"]:
        titles += [f"coverage at {count}", f"by {count} samples"]
    rows = []
    for name, entry in methods.items():
        parts = [entry["tasks"][task] for task in summary["tasks"]]
        parts += [entry, *(entry["templates"][kind] for kind in kinds)]
        row = [name, *(_percent(part["mean"]) for part in parts)]
        if has_volume:
            volume = entry["hypervolume"]
            row.append("" if volume is None else f"{volume:.3f}")
        reached = entry["tokens_to_reference"]
        row.append("" if reached is None else f"{reached:,.0f}")
        if count:
            pair = entry["coverage"] or {}
            row += [_percent(pair.get(kind)) for kind in ("diverse", "samples")]
        rows.append(row)
    return titles, rows


def make_table(summary: Mapping[str, Any], *, plain: bool) -> Table:
    """The table of methods for a terminal, with seconds.

    Args:
      summary: what `write_summary` returns.
      plain: whether to draw no lines.
    """
    table = Table(
        title=f"scores on test, differences to {summary['reference']}",
        title_justify="left",
        box=None if plain else rich.box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for title in (*_TITLES, "seconds"):
        table.add_column(title, justify="left" if title == "method" else "right")
    for row in method_rows(summary):
        seconds = summary["times"][row[0]]["seconds"]
        cells = [cell.replace("[", r"\[") for cell in row]
        table.add_row(*cells, f"{seconds:.0f}")
    return table


def _reference(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    return summary["methods"][summary["reference"]]


def _percent(score: float | None) -> str:
    return "" if score is None else f"{100 * score:.1f}"


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
