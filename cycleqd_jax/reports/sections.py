"""Sections of the page on luck, retention and cost, each as ready HTML."""

from collections.abc import Mapping
from typing import Any

from cycleqd_jax.reports.markup import table, text


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
    header = ["phase", "tokens forward", "tokens backward", "tokens", "share"]
    return (
        '<section><h2>Cost</h2><p class="note">Tokens through the model, prompts and '
        "replies; a backward token counts as two. What compares methods is all but "
        f"<em>test</em>: {spent['tokens_without_test']:,} tokens.</p>"
        f"{table(header, rows)}</section>"
    )
