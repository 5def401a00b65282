"""Sections of the page that are ready as HTML: metrics, coverage, luck and others."""

from collections.abc import Mapping
from typing import Any

from cycleqd_jax.reports import tables
from cycleqd_jax.reports.markup import table, text

_COVER = 12  # models of a cover that are named


def metrics(report: Mapping[str, Any], split: str) -> str:
    """A section with one table per task that says more than a score; maybe nothing."""
    parts = []
    for task, names in tables.metric_names(report, split).items():
        rows = []
        for model in report["models"]:
            means, errors = (
                report[kind].get(model, {}).get(split, {}).get(task, {})
                for kind in ("metrics", "metric_errors")
            )
            cells = [_mean_cell(means.get(n), errors.get(n)) for n in names]
            rows.append([text(model), *cells])
        shown = table(["model", *names], rows, marked=[report["result"]])
        parts.append(f"<h3>{text(task)}</h3>{shown}")
    if not parts:
        return ""
    return (
        f"<section><h2>Beside the score, on {text(split)}</h2>"
        '<p class="note">Means over the problems that have each, and their standard '
        "errors.</p>"
        f"{''.join(parts)}</section>"
    )


def _mean_cell(mean: float | None, error: float | None) -> str:
    if mean is None:
        return "&ndash;"
    small = "" if error is None else f"<small>&plusmn; {error:.3f}</small>"
    return f"<td>{mean:.3f}{small}</td>"


def coverage(report: Mapping[str, Any]) -> str:
    """The problems all models solve together; empty where there is only one."""
    parts = []
    for split, found in report["coverage"].items():
        cover = found["cover"]
        shown = [
            f"<code>{text(row['name'])}</code> {'' if i else 'solves '}"
            f"{'+' if i else ''}{_count(row['adds'])}"
            for i, row in enumerate(cover[:_COVER])
        ]
        more = f" and {len(cover) - _COVER} more" if len(cover) > _COVER else ""
        parts.append(
            f"<p>On <em>{text(split)}</em>, {text(found['who'])} solve "
            f"<strong>{_count(found['together'])} of {found['problems']}</strong> "
            f"problems together; the best one, <code>{text(found['name'])}</code>, "
            f"solves {_count(found['best'])}. {len(cover)} "
            f"{'models are' if len(cover) != 1 else 'model is'} enough: "
            f"{', '.join(shown)}{more}.</p>"
        )
    if not parts:
        return ""
    return (
        "<section><h2>What the population solves that no single model does</h2>"
        '<p class="note">A problem counts where at least one model solves it, with its '
        "best score where that is between 0 and 1. The models that are enough are "
        "added one by one, each time the one that adds most. On <em>optimise</em>, "
        "by which the population was selected, this is a bound from above; nobody "
        "knows beforehand which model will solve a problem.</p>"
        f"{''.join(parts)}</section>"
    )


def _count(problems: float) -> str:
    whole = round(problems)
    return str(whole) if abs(problems - whole) < 1e-9 else f"{problems:.1f}"


def winners_curse(report: Mapping[str, Any]) -> str:
    """Optimise minus test of every model; empty where a run has no `test`."""
    rows = [
        [
            text(model),
            f"{row['optimise']:.3f}",
            f"{row['test']:.3f}",
            f"<td class='best'>{row['difference']:+.3f}</td>",
            f"{row['standard_error']:.3f}",
            "yes" if row["selected"] else "no",
        ]
        for model, row in report["winners_curse"].items()
    ]
    if not rows:
        return ""
    header = ["model", "optimise", "test", "difference", "standard error", "selected"]
    return (
        "<section><h2>The winner's curse: optimise minus test</h2>"
        '<p class="note">A model that was selected by its score on <em>optimise</em> '
        "owes a part of that score to luck. Base, experts and uniform merge were not "
        "selected, so their differences say how much harder <em>test</em> is; what the "
        "others have beyond that is luck.</p>"
        f"{table(header, rows, marked=[report['result']])}</section>"
    )


def retention(report: Mapping[str, Any]) -> str:
    """A section on plain text; empty where a run did not measure it."""
    rows = [
        [
            text(model),
            f"{row['nats_per_token']:.4f}",
            f"{row['nats_per_byte']:.4f}",
            f"<td class='best'>{row['difference']:+.4f}</td>",
            f"{row['standard_error']:.4f}",
        ]
        for model, row in report["retention"].items()
    ]
    if not rows:
        return ""
    header = ["model", "per token", "per byte", "against the base", "standard error"]
    return (
        '<section><h2>What is kept of plain text</h2><p class="note">Log-probability '
        "of paragraphs of Python's language reference, in nats; less is worse. Against "
        "the base: the mean over paragraphs of the difference per token.</p>"
        f"{table(header, rows, marked=[report['result']])}</section>"
    )


def cost(report: Mapping[str, Any]) -> str:
    """A section with tokens by phase; empty where a run has not counted them."""
    spent = report["cost"]
    if not spent["phases"]:
        return ""
    rows = [
        [
            text(phase),
            *(f"{row[key]:,}" for key in ("tokens_forward", "tokens_backward")),
            f"<td class='best'>{row['tokens']:,}</td>",
            "&ndash;" if row["share"] is None else f"{row['share']:.1%}",
        ]
        for phase, row in spent["phases"].items()
    ]
    if (unit := report.get("unit")) is not None:
        header = ["phase", f"{unit} forward", f"{unit} backward", unit, "share"]
        return (
            '<section><h2>Cost</h2><p class="note">Images through models. What '
            f"compares methods is all but <em>test</em>: "
            f"{spent['tokens_without_test']:,} images.</p>{table(header, rows)}"
            "</section>"
        )
    header = ["phase", "tokens forward", "tokens backward", "tokens", "share"]
    return (
        '<section><h2>Cost</h2><p class="note">Tokens through the model, prompts and '
        "replies; a backward token counts as two. What compares methods is all but "
        f"<em>test</em>: {spent['tokens_without_test']:,} tokens.</p>"
        f"{table(header, rows)}</section>"
    )


def experts(report: Mapping[str, Any]) -> str:
    """The experts' similarity, and a table of those that the basis changed."""
    pairs = ", ".join(
        f"{text(row['first'])} and {text(row['second'])} "
        f"<strong>{row['cosine']:.3f}</strong>"
        for row in report["basis"]["similarity"]
    )
    parts = [f"<p>Model similarity: {pairs}.</p>"] if pairs else []
    changed, basis = report["basis"]["changed"], report["basis"]
    if basis["conditioning"] != "none":
        tokens = basis["gram_tokens"]
        by = f", by the inputs of {tokens:,} tokens of train problems" if tokens else ""
        parts.append(
            f"<p>The task vectors are conditioned: {text(basis['conditioning'])}"
            f"{by}. The experts' genomes are the conditioned experts.</p>"
        )
    if not changed:
        return "".join([*parts, "<p>The basis holds every expert exactly.</p>"])
    rows = []
    for expert, row in changed.items():
        least = row["least_kept"]
        scores = ["&ndash;"] * 4
        if "as_trained" in row:
            both = (row["as_trained"], row["as_genome"])
            scores = [
                f"{one[key]:.3f}" if key in one else "&ndash;"  # it has no task
                for key in (expert, "mean")
                for one in both
            ]
        matrix = "&ndash;"
        if least:
            matrix = f"{least['kept']:.1%}<small>{text(least['matrix'])}</small>"
        share = f"{row['energy_kept']:.1%}"
        rows.append([text(expert), share, f"<td>{matrix}</td>", *scores])
    header = ["expert", "energy kept", "least of", "own skill as trained", "as genome"]
    return "".join([*parts, table([*header, "mean as trained", "as genome"], rows)])
