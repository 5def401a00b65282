"""Makes the report of a finished run: `report/` with JSON, HTML page and PNGs."""

import json
import pathlib
from typing import Any

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import NO_ROOM, cannot_write, write_bytes
from cycleqd_jax.reports import (
    archive_maps,
    coverage,
    explorer,
    figures,
    masks,
    page,
    run_data,
    tables,
)
from cycleqd_jax.reports.population import Population, read_population
from cycleqd_jax.reports.questions import Questions
from cycleqd_jax.reports.shares import read_shares
from cycleqd_jax.runs.opened import open_run


def write_report(run_dir: str | pathlib.Path) -> dict[str, Any]:
    """Reads a finished run; writes `report.json`, `report.html` and figures as PNGs.

    What it writes depends on the run's results, and on whether its tasks are here for
    their questions, wall times aside: those are in the JSON's `timing` and in the
    page's line `wall-time`, and nowhere else.

    Args:
      run_dir: the run folder; nothing in it is changed but its `report/`.

    Returns:
      What is in `report.json`, see `tables.make_report`.

    Raises:
      BadInputError: if this is no finished run folder, or `report/` cannot be written.
      RunError: if there is no room for it.
    """
    opened = open_run(run_dir, finished=True)
    data, population = run_data.read_run(run_dir), read_population(opened)
    report = numbers(data, population)
    images = draw(data, report, run_dir)
    files = {f"{name}.png": png for name, png in images.items()}
    questions = Questions(opened)
    explored = explorer.explorer_data(population, read_shares(opened), questions)
    html = page.make_page(data, report, images, main_split(report), explored, questions)
    files["report.html"] = html.encode()
    files["report.json"] = (json.dumps(report, indent=2) + "\n").encode()
    folder = pathlib.Path(run_dir) / "report"
    try:
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            write_bytes(folder / name, content)
    except OSError as err:
        if err.errno in NO_ROOM:
            raise cannot_write(folder, err) from err
        raise BadInputError(f"{folder}: cannot be written ({err.strerror}).") from err
    return report


def numbers(data: run_data.RunData, population: Population) -> dict[str, Any]:
    """All numbers of the report, as `report.json` holds them."""
    report = tables.make_report(data)
    # A mask is no problem that is solved or not.
    found = {} if data.of_images else coverage.of_population(population)
    return report | {"coverage": found}


def draw(
    data: run_data.RunData, report: dict[str, Any], run_dir: str | pathlib.Path
) -> dict[str, bytes]:
    """The figures as PNG bytes, by name."""
    images = {
        "scores": figures.draw_scores(report, main_split(report)),
        "progress": figures.draw_progress(data),
        "lineage": figures.draw_lineage(data),
    }
    if data.elites:
        images["archives"] = archive_maps.draw_archives(data)
    if data.of_images and (picture := masks.draw_masks(data, run_dir)) is not None:
        images["masks"] = picture
    return images


def main_split(report: dict[str, Any]) -> str:
    """The split to look at: `test`, or `optimise` where nothing was tested."""
    return "test" if "test" in report["models"][report["result"]] else "optimise"
