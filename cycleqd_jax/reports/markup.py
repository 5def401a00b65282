"""Texts and tables as HTML."""

import html
from collections.abc import Sequence

from cycleqd_jax.errors import printable


def text(content: str) -> str:
    """A text, perhaps a model's, for the page: nothing in it is markup or hidden."""
    return html.escape(printable(content, keep="\n\t"))


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    marked: Sequence[str] = (),
) -> str:
    """A table of ready HTML cells; rows whose first cell is in `marked` stand out."""
    head = "".join(f"<th>{text(name)}</th>" for name in header)
    lines = [f"<table><thead><tr>{head}</tr></thead><tbody>"]
    for row in rows:
        kind = ' class="result"' if row[0] in marked else ""
        # A cell may bring its own <td ...>.
        cells = "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in row)
        lines.append(f"<tr{kind}>{cells}</tr>")
    return "\n".join([*lines, "</tbody></table>"])
