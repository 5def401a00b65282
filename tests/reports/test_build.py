import base64
import hashlib
import html.parser
import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import run_contents

from cycleqd_jax.reports import build

PNGS = ("scores", "archives", "progress", "lineage")


@pytest.fixture(scope="module")
def report(finished_run):
    written = build.write_report(finished_run)
    assert json.loads((finished_run / "report" / "report.json").read_text()) == written
    return written


def results(run):
    rows = []
    for path in (run / "results").glob("*.parquet"):
        rows += pq.read_table(path).to_pylist()
    return rows


def test_rows_of_the_table(report):
    assert list(report["models"]) == [
        "base",
        "expert/skill_a",
        "expert/skill_b",
        "expert/skill_c",
        "uniform_merge",
        "scaled_merge",
        "best_of_archive",
        "aggregated",
    ]
    assert report["evaluated_children"] == 14
    assert report["state_fingerprint"] == "0123456789abcdef" * 4
    assert report["result"] == "aggregated" and report["search"] == "cycleqd"
    assert report["timing"]["total_s"] == 120.5


@pytest.mark.parametrize("model", ["base", "expert/skill_b", "aggregated"])
def test_scores_equal_those_of_the_results(report, finished_run, model):
    entry = report["models"][model]["test"]
    rows = [
        row
        for row in results(finished_run)
        if row["individual"] == model and row["split"] == "test"
    ]
    assert entry["problems"] == len(rows) == 60
    scores = []
    for task in ("skill_a", "skill_b", "skill_c"):
        scores.append(np.mean([row["score"] for row in rows if row["task"] == task]))
        assert entry[task] == pytest.approx(scores[-1])
        low, high = entry["interval"][task]
        assert 0 <= low < entry[task] < high <= 1
    assert entry["mean"] == pytest.approx(np.mean(scores))


def test_selected_models_are_found_under_the_name_they_were_selected_by(
    report, finished_run
):
    state = json.loads((finished_run / "state.json").read_text())
    rows = results(finished_run)
    for model, name in [
        ("scaled_merge", "scaled_merge/0.4"),
        ("best_of_archive", state["best"]),
    ]:
        scores = [
            row["score"]
            for row in rows
            if row["individual"] == name and row["split"] == "optimise"
        ]
        assert len(scores) == 36
        got = report["models"][model]["optimise"]["mean"]
        assert got == pytest.approx(np.mean(scores))
        assert "validate" not in report["models"][model]


def test_optimise_is_marked_as_selected(report, finished_run):
    assert "optimise" in report["selected_on"] and "test" not in report["selected_on"]
    page = (finished_run / "report" / "report.html").read_text()
    assert 'Scores on optimise <span class="tag">selected' in page


def test_paired_differences(report):
    pairs = {(p["against"], p["split"]): p for p in report["paired"]}
    for other in ("uniform_merge", "scaled_merge", "base", "expert/skill_a"):
        pair = pairs[other, "test"]
        gap = (
            report["models"]["aggregated"]["test"]["mean"]
            - report["models"][other]["test"]["mean"]
        )
        assert pair["difference"] == pytest.approx(gap)
        assert pair["won"] - pair["lost"] == pytest.approx(60 * gap)
        assert pair["standard_error"] > 0
    assert ("scaled_merge", "validate") not in pairs  # it was not evaluated there


def test_archives_and_champions(report, finished_run):
    rows = pq.read_table(finished_run / "archives.parquet").to_pylist()
    for task, entry in report["archives"].items():
        qualities = [row["quality"] for row in rows if row["archive"] == task]
        assert entry["elites"] == len(qualities)
        assert entry["coverage"] == len(qualities) / 36
        assert entry["best"] == max(qualities)
        assert entry["qd_score"] == pytest.approx(sum(qualities))
    for champion in report["aggregation"].values():
        assert sum(champion["expert_shares"].values()) == pytest.approx(1)


def test_a_backward_token_counts_as_two_and_test_is_no_part_of_a_budget(report):
    cost = report["cost"]
    assert cost["tokens_without_test"] == 2500
    assert cost["phases"]["search"]["tokens"] == 2000
    shares = {phase: row["share"] for phase, row in cost["phases"].items()}
    assert shares == {"search": 0.8, "champions": 0.2, "test": None}


def test_the_winners_curse_is_optimise_minus_test(report, finished_run):
    rows = report["winners_curse"]
    assert not rows["base"]["selected"] and rows["aggregated"]["selected"]
    assert rows["best_of_archive"]["selected"]
    for model, row in rows.items():
        on = report["models"][model]
        assert row["optimise"] == on["optimise"]["mean"]
        assert row["difference"] == on["optimise"]["mean"] - on["test"]["mean"]
    squares, sizes = 0.0, {"optimise": 12, "test": 20}
    for split in ("optimise", "test"):
        for task in report["tasks"]:
            p, n = report["models"]["base"][split][task], sizes[split]
            squares += p * (1 - p) / (n - 1) / 9
    assert rows["base"]["standard_error"] == pytest.approx(squares**0.5)


def test_a_champions_luck_is_optimise_minus_validate(report, finished_run):
    scores = {}
    for row in results(finished_run):
        if row["split"] == "optimise":
            own = scores.setdefault(row["individual"], {})
            own.setdefault(row["task"], []).append(row["score"])
    for champion in report["aggregation"].values():
        means = [np.mean(own) for own in scores[champion["individual"]].values()]
        want = np.mean(means) - champion["validated"]
        assert champion["optimise_minus_validate"] == pytest.approx(want)


def test_the_page_has_cost_luck_and_retention(report, finished_run):
    page = (finished_run / "report" / "report.html").read_text()
    for heading in ("Cost", "The winner's curse", "What is kept of plain text"):
        assert f"<h2>{heading}" in page
    assert "2,500 tokens" in page and "<td class='best'>-0.1250</td>" in page


def test_equal_runs_elsewhere_and_slower_give_equal_bytes(fabricate, finished_run):
    """Only times may differ: `timing` of the JSON and one line of the page."""
    other = fabricate()
    (other / "timing.jsonl").write_text('{"phase": "loop", "seconds": 7777.0}\n')
    (other / "config.yaml").write_text(
        (other / "config.yaml").read_text().replace(str(other), "another/folder")
    )
    run_contents.seal(other)
    for run in (finished_run, other):
        build.write_report(run)
    one, two = finished_run / "report", other / "report"
    for name in PNGS:
        assert (one / f"{name}.png").read_bytes() == (two / f"{name}.png").read_bytes()
    reports = [
        json.loads((folder / "report.json").read_text()) for folder in (one, two)
    ]
    assert reports[0].pop("timing") != reports[1].pop("timing")
    assert json.dumps(reports[0]) == json.dumps(reports[1])
    lines = [(folder / "report.html").read_text().splitlines() for folder in (one, two)]
    different = [a for a, b in zip(*lines, strict=True) if a != b]
    assert len(different) == 1 and 'id="wall-time"' in different[0]


class Checker(html.parser.HTMLParser):
    """Finds what a page would fetch, and tags left open."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_fetches_nothing(report, finished_run):
    text = (finished_run / "report" / "report.html").read_text()
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    assert len(checker.sources) == len(PNGS)
    assert all(src.startswith("data:image/png;base64,") for src in checker.sources)
    assert not {"link", "iframe"} & checker.tags
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; img-src data:;")
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy  # the only script that may run
    plain = re.sub(r"base64,[^\"]*", "", text).replace("http-equiv", "")
    assert "http" not in plain and "url(" not in text
    assert "answer &lt;0&gt; &amp; more" in text and "answer <" not in text
    assert "got \\x1b[2J\\u202e\\r4" in text and not {"\x1b", "\u202e", "\r"} & {*text}
    plus = report["metrics"]["uniform_merge"]["test"]["skill_b"]["plus"]
    assert "Beside the score, on test" in text
    error = report["metric_errors"]["uniform_merge"]["test"]["skill_b"]["plus"]
    cell = f"<td>{plus:.3f}<small>&plusmn; {error:.3f}</small></td>"
    assert f"<td>uniform_merge</td>{cell}" in text


@pytest.mark.parametrize(
    ("num_tasks", "num_children"),
    [(2, 1), (4, 9), pytest.param(5, 5, marks=pytest.mark.slow)],
)
def test_other_numbers_of_tasks(fabricate, num_tasks, num_children):
    run = fabricate(num_tasks, num_children)
    report = build.write_report(run)
    assert len(report["models"]) == num_tasks + 5
    for name in PNGS:
        png = (run / "report" / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG") and len(png) > 5000


def test_without_a_test_split_optimise_comes_first(fabricate):
    run = fabricate()
    config = run / "config.yaml"
    config.write_text(config.read_text().replace('"test": 20', '"test": 0'))
    for path in (run / "results").glob("*.parquet"):
        table = pq.read_table(path)
        keep = [split != "test" for split in table["split"].to_pylist()]
        pq.write_table(table.filter(keep), path)
    run_contents.seal(run)
    # scaled_merge and best_of_archive have it under the names they were selected by.
    report = build.write_report(run)
    assert build.main_split(report) == "optimise"
    assert "Scores on optimise" in (run / "report" / "report.html").read_text()


def test_report_folder_that_cannot_be_written(fabricate):
    run = fabricate(2, 1)
    shutil.rmtree(run / "report", ignore_errors=True)
    (run / "report").write_text("a file where the folder should be")
    with pytest.raises(build.BadInputError, match="expected a folder"):
        build.write_report(run)
