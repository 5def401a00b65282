"""Makes a page of the site from the tutorial's notebook: its cells, without outputs."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

NOTEBOOK, PAGE = "tutorial.ipynb", "tutorial.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the page."""
    notebook = pathlib.Path(config.docs_dir, NOTEBOOK)
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join(map(_markdown, cells))
    files.append(File.generated(config, PAGE, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Lets other pages' links to the notebook lead to its page, and only that to it."""
    if page.file.src_uri == PAGE:
        return markdown.replace("\n\n", f"\n\n[A notebook to run.]({NOTEBOOK}) ", 1)
    return markdown.replace(f"]({NOTEBOOK})", f"]({PAGE})")


def _markdown(cell: Mapping[str, Any]) -> str:
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return text
    first, _, rest = text.partition("\n")
    language, code = ("bash", rest) if first == "%%bash" else ("python", text)
    return f"```{language}\n{code}\n```"
