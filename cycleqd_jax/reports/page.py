"""One self-contained HTML page: numbers, figures, settings; no outside resources.

Only the line with the id `wall-time` differs between equal runs.
"""

import base64
import string
from collections.abc import Mapping
from typing import Any

from cycleqd_jax.config import to_yaml
from cycleqd_jax.reports import origins, out_of_domain, sections, tables
from cycleqd_jax.reports.markup import table, text
from cycleqd_jax.reports.questions import Questions
from cycleqd_jax.reports.replies import cut
from cycleqd_jax.reports.run_data import RunData
from cycleqd_jax.reports.shell import make_shell, web_file
from cycleqd_jax.runs.names import expert_name

_OF_ANSWERS = {
    "score_note": "Share of problems solved, with 95 % intervals: Wilson's per skill",
    "paired_note": "Every model answered the same problems, so they are compared "
    "problem by problem: the difference of means, its standard error, and how many "
    "problems the result alone solved or alone missed",
    "samples_note": "for each skill the first problem it solved and the first it did "
    "not",
}
_OF_ARCHIVES = (
    "a child has the colour of the archive that it was bred from, and a start of the "
    "archives, which was not bred, comes from all experts"
)
_WITHOUT_ARCHIVES = "a child whose parents the search does not name stands alone"
_OF_MASKS = {
    "score_note": "Mean over images of the data set's measure, with 95 % intervals: "
    "1.96 standard errors per data set",
    "paired_note": "Every model saw the same images, so they are compared image by "
    "image: the difference of means, its standard error, and on how many images the "
    "result scores higher or lower",
    "samples_note": "the first images of each data set, with the masks of the base, "
    "of the experts and of the result",
}


def make_page(
    data: RunData,
    report: Mapping[str, Any],
    figures: Mapping[str, bytes],
    split: str,
    explorer: Mapping[str, Any],
    questions: Questions,
    server: Mapping[str, Any] | None = None,
) -> str:
    """The page as HTML text.

    Args:
      data: the run.
      report: made of it by `tables.make_report`.
      figures: PNG bytes by name: scores, progress, lineage; and archives and masks if
        there are some.
      split: the split reported first.
      explorer: made by `explorer.explorer_data`.
      questions: of the run.
      server: as for `shell.make_shell`.
    """
    images = {
        f"{name}_figure": _image(png, alternative=f"figure: {name}")
        for name, png in figures.items()
    }
    archives = images.pop("archives_figure", "")
    masks = images.pop("masks_figure", "")
    below = string.Template(web_file("report.html")).substitute(
        images,
        split=split,
        tables=_score_tables(report, split),
        paired=_paired_table(report, split),
        metrics=sections.metrics(report, split),
        coverage=sections.coverage(report),
        archives=_archives(report, archives),
        ancestors=_OF_ARCHIVES if report["archives"] else _WITHOUT_ARCHIVES,
        champions=_champion_table(report),
        experts=sections.experts(report),
        samples=masks or _samples(data, questions),
        **(_OF_MASKS if data.of_images else _OF_ANSWERS),
        curse=sections.winners_curse(report),
        retention=sections.retention(report),
        out_of_domain=out_of_domain.section(report),
        cost=sections.cost(report),
        facts=_facts(data, report),
        fingerprint=text(report["state_fingerprint"]),
        settings=text(_settings(data)),
        wall_time=_wall_time(report["timing"]),
    )
    return make_shell(
        explorer,
        title=f"{len(data.tasks)} skills in one model",
        summary=f'<p class="lead">{_summary(report, split)}</p>',
        report=below,
        server=server,
    )


def _image(png: bytes, *, alternative: str) -> str:
    code = base64.b64encode(png).decode("ascii")
    return f'<img alt="{text(alternative)}" src="data:image/png;base64,{code}">'


def _summary(report: Mapping[str, Any], split: str) -> str:
    models, result = report["models"], report["result"]
    expert = tables.best_expert(report, split)
    low, high = models[result][split]["interval"]["mean"]
    experts = {expert_name(name) for name in report["experts"]} - {expert}
    others = ", ".join(
        f"<code>{text(name)}</code> {splits[split]['mean']:.3f}"
        for name, splits in models.items()
        if name not in {result, *experts} and "mean" in splits.get(split, {})
    )
    verb, of = ("scores", "on") if "unit" in report else ("solves", "of")
    return (
        f"The model that the search found {verb} "
        f"<strong>{models[result][split]['mean']:.3f}</strong> {of} the "
        f"{'images' if of == 'on' else 'problems'} of "
        f"<em>{split}</em> (mean over {len(report['tasks'])} skills, 95 % interval "
        f"{low:.3f} to {high:.3f}). The base model, the best expert and the other "
        f"models {verb[:-1]}: {others}."
    )


def _score_tables(report: Mapping[str, Any], first: str) -> str:
    """One table per split; the others after the first are folded away."""
    splits = list(
        dict.fromkeys(
            [first, *(s for entry in report["models"].values() for s in entry)]
        )
    )
    parts = []
    for split in splits:
        shown = _score_table(report, split)
        why = report["selected_on"].get(split)
        tag = f'<span class="tag">selected: {text(why)}</span>' if why else ""
        if split == first:
            parts.append(f"{shown}{tag}")
        else:
            parts.append(
                f"<details><summary>Scores on {split} {tag}</summary>{shown}</details>"
            )
    return "\n".join(parts)


def _score_table(report: Mapping[str, Any], split: str) -> str:
    columns = [*report["tasks"], "mean"]
    entries = {
        name: entry[split] for name, entry in report["models"].items() if split in entry
    }
    best = {
        column: max((e[column] for e in entries.values() if column in e), default=None)
        for column in columns
    }
    rows = []
    for name, entry in entries.items():
        cells = [text(name)]
        for column in columns:
            if column not in entry:
                cells.append("&ndash;")
                continue
            low, high = entry["interval"][column]
            kind = ' class="best"' if entry[column] == best[column] else ""
            cells.append(
                f"<td{kind}>{entry[column]:.3f}"
                f"<small>{low:.2f} &ndash; {high:.2f}</small></td>"
            )
        rows.append([*cells, str(entry["problems"])])
    return table(["model", *columns, "problems"], rows, marked=[report["result"]])


def _paired_table(report: Mapping[str, Any], split: str) -> str:
    rows = []
    for pair in report["paired"]:
        if pair["split"] != split:
            continue
        low, high = pair["interval"]
        gaps = [f"{pair['tasks'][task]['difference']:+.3f}" for task in report["tasks"]]
        rows.append(
            [
                text(pair["against"]),
                *gaps,
                f"<td class='best'>{pair['difference']:+.3f}</td>",
                f"{pair['standard_error']:.3f}",
                f"{low:+.3f} &hellip; {high:+.3f}",
                str(pair["won"]),
                str(pair["lost"]),
            ]
        )
    header = ["result minus", *report["tasks"], "mean", "standard error", "95 %"]
    return table([*header, "won", "lost"], rows)


def _archives(report: Mapping[str, Any], figure: str) -> str:
    """The section on archives; empty for a search without any."""
    if not report["archives"]:
        return ""
    rows = [
        [
            text(task),
            str(entry["elites"]),
            f"{entry['coverage']:.3f}",
            "&ndash;" if entry["best"] is None else f"{entry['best']:.3f}",
            f"{entry['qd_score']:.2f}",
            f"{entry['range'][0]:.3f} &ndash; {entry['range'][1]:.3f}",
        ]
        for task, entry in report["archives"].items()
    ]
    header = ["archive", "elites", "coverage", "best", "QD score", "range of cells"]
    kept = next(iter(report["archives"].values())).get("retention")
    retention = ""
    if kept:
        low, high = kept
        retention = f", and retention ({low:.3f} to {high:.3f}) as of one more skill"
    return (
        '<section><h2>Archives</h2><p class="note">One archive per skill. Place: the '
        f"other skills' scores{retention}; colour: the score on the archive's own "
        "skill, both on <em>optimise</em>. Stars are experts, rings the champions that "
        "make the result, grey cells are empty. With more than three skills there is "
        "one map per pair of other skills, and a cell shows the best elite over all "
        "others."
        f"</p>{figure}{table(header, rows)}</section>"
    )


def _champion_table(report: Mapping[str, Any]) -> str:
    rows = []
    for task, champion in report["aggregation"].items():
        validated = champion.get("validated")
        luck = champion["optimise_minus_validate"]
        shares = [
            "-" if share is None else f"{share:.2f}"
            for share in champion["expert_shares"].values()
        ]
        rows.append(
            [
                text(task),
                text(champion["individual"]),
                f"{champion['quality']:.3f}",
                "&ndash;" if validated is None else f"{validated:.3f}",
                "&ndash;" if luck is None else f"{luck:+.3f}",
                f"{champion['beta']:.3f}",
                *shares,
            ]
        )
    of_expert = [f"share of {expert}" for expert in report["experts"]]
    if all(row[-len(of_expert) :] == ["-"] * len(of_expert) for row in rows):
        rows, of_expert = [row[: -len(of_expert)] for row in rows], []  # none is known
    header = ["group", "champion", "optimise", "validate", "luck", "weight"]
    return table([*header, *of_expert], rows)


def _samples(data: RunData, questions: Questions) -> str:
    """Replies with their questions, as far as these are known."""
    by_task: dict[str, list[str]] = {task: [] for task in data.tasks}
    for sample in sorted(data.samples, key=lambda row: row["outcome"] != "solved"):
        kind = {"solved": "ok", "scored": ""}.get(sample["outcome"], "no")
        asked = questions.find(sample["task"], sample["problem"])
        by_task.setdefault(sample["task"], []).append(
            f'<div><strong class="{kind}">{text(sample["outcome"])}</strong> '
            f"<code>{text(sample['problem'])}</code>"
            f"{'' if asked is None else _question(asked)}"
            f"<pre>{text(sample['reply'] or '')}</pre>"
            f'<p class="note">{text(sample["explanation"] or "")}</p></div>'
        )
    return "\n".join(
        f'<h3>{text(task)}</h3><div class="pair">{"".join(items)}</div>'
        for task, items in by_task.items()
    )


def _question(asked: str) -> str:
    return f'<p class="question">{text(cut(asked))}</p>'


def _wall_time(timing: Mapping[str, Any]) -> str:
    phases = ", ".join(f"{text(n)} {s:.0f}" for n, s in timing["phases"].items())
    return f"Wall time: {timing['total_s']:.0f} s ({phases})."


def _facts(data: RunData, report: Mapping[str, Any]) -> str:
    config, tried = data.config, report["scaled_merge"].get("tried", {})
    tried = {name.removeprefix("scaled_merge/"): score for name, score in tried.items()}
    tried.pop("uniform_merge", None)
    factors = ", ".join(f"{factor} ({score:.3f})" for factor, score in tried.items())
    named = origins.operators(config) or {}
    bred = "".join(f", {kind} {name}" for kind, name in named.items())
    return text(
        f"{report['evaluated_children']} children of {len(data.experts)} experts of "
        f"{config.base_model}, search {config.search}{bred}, seed {config.seed}. "
        f"The best mean on optimise is that of {report['best']}. Scaled merge is the "
        "sum of task vectors times "
        f"{report['scaled_merge']['factor']}, the best on optimise"
        + (f" of {factors}." if factors else ".")
    )


def _settings(data: RunData) -> str:
    """The settings; without the folder, which is not part of what a run is."""
    return to_yaml(data.config.model_copy(update={"run_dir": None})).replace(
        "run_dir: null\n", ""
    )
