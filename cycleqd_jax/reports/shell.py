"""The one HTML page: styles, the explorer with its data and scripts, ready sections.

There is no build step: the files in `web/` are put into the page as they are. The page
names the hash of its one script, so a browser runs no other, whatever a text holds.
"""

import base64
import hashlib
import importlib.resources
import string
from collections.abc import Mapping
from typing import Any

from cycleqd_jax.reports import explorer
from cycleqd_jax.reports.markup import text

_SCRIPTS = ("base", "maps", "lineage", "card", "everyone", "chat", "start")


def web_file(name: str) -> str:
    """A file of `web/` as text."""
    return (
        importlib.resources.files(__package__).joinpath("web", name).read_text("utf-8")
    )


def make_shell(
    data: Mapping[str, Any],
    *,
    title: str,
    summary: str = "",
    report: str = "",
    server: Mapping[str, Any] | None = None,
) -> str:
    """The page as HTML text.

    Args:
      data: of the explorer, see `explorer.explorer_data`.
      title: a text.
      summary: HTML above the explorer.
      report: HTML below it: the sections of a report.
      server: the addresses that the page may ask, as `serving` names them; None for a
        page that is opened from a file.
    """
    parts = [web_file(f"{name}.js") for name in _SCRIPTS]
    script = '\n(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"
    digest = hashlib.sha256(script.encode()).digest()
    return string.Template(web_file("page.html")).substitute(
        tab=text(f"{title} - CycleQD"),
        title=text(title),
        style=web_file("page.css").rstrip(),
        script_hash=f"sha256-{base64.b64encode(digest).decode()}",
        summary=summary,
        report=report,
        data=explorer.to_json(data),
        server=explorer.to_json(server),
        script=script,
    )
