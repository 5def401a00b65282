"""The model card of an exported individual: a YAML head for the hub, and a text."""

import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import huggingface_hub
import yaml

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files.remote import is_url
from cycleqd_jax.models.formats.gguf import read_gguf_metadata
from cycleqd_jax.models.locate import find_download, is_hub_name, locate
from cycleqd_jax.reports.statistics import mean, score_interval
from cycleqd_jax.runs.kinds import predicts_masks
from cycleqd_jax.runs.names import AGGREGATED, BASE, expert_name
from cycleqd_jax.runs.opened import OpenedRun
from cycleqd_jax.runs.out_of_domain import SPLIT as OUT_OF_DOMAIN
from cycleqd_jax.runs.reading import read_scores

_EXPERT = expert_name("")
_TAGS = ("merge", "cycleqd", "cycleqd_jax")
_LICENCE = ("license", "license_name", "license_link")


class Part(NamedTuple):
    """A model that an individual is made of.

    Attributes:
      role: "base", or an expert's name.
      source: its path or name, as in the config.
      hub: `org/name` on the hub, or None.
      licence: keys of a card's head that say under which licence it is; empty where
        that is not known.
    """

    role: str
    source: str
    hub: str | None
    licence: Mapping[str, str]


class ModelCard(NamedTuple):
    """A card before it is written.

    Attributes:
      data: of the head.
      body: Markdown.
    """

    data: huggingface_hub.ModelCardData
    body: str

    def text(self) -> str:
        """The `README.md` of the whole model."""
        return f"---\n{self.data.to_yaml()}\n---\n\n{self.body}"

    def adapter_text(self, base: str, remark: str) -> str:
        """The `README.md` of the individual as an adapter.

        Args:
          base: name or path of its base model.
          remark: put after the text.
        """
        head = self.data.to_dict() | {
            "base_model": base,
            "base_model_relation": "adapter",
            "library_name": "peft",
            "tags": ["lora", *_TAGS],
        }
        data = huggingface_hub.ModelCardData(**head)
        return f"---\n{data.to_yaml()}\n---\n\n{self.body}{remark}"


def make_card(
    opened: OpenedRun, asked: str, command: Sequence[str], name: str | None = None
) -> ModelCard:
    """Writes the card of an individual of a finished run.

    Args:
      opened: the run.
      asked: the individual's name.
      command: the words of the command that exports it.
      name: of the model in the head; None is the individual's with the run's.

    Raises:
      BadInputError: the run's results are damaged.
    """
    individual, run = opened.resolve(asked), opened.path.name
    scores = _test_scores(opened, {asked, individual})
    parts = _parts(opened)
    of_images = predicts_masks(opened.config)
    pipeline = "mask-generation" if of_images else "text-generation"
    hub = list(dict.fromkeys(part.hub for part in parts if part.hub))
    title = name or f"{asked} of {run}"
    merged = not individual.startswith((BASE, _EXPERT))
    more = {"base_model_relation": "merge"} if hub and merged else {}
    data = huggingface_hub.ModelCardData(
        base_model=hub or None,
        library_name="transformers",
        pipeline_tag=pipeline,
        tags=list(_TAGS),
        model_name=title if scores else None,
        eval_results=_results(opened, scores, pipeline, of_images) or None,
        **_common_licence(parts),
        **more,
    )
    lines = [
        *_made_of(opened, asked, individual),
        *_champions(opened, individual),
        *_score_table(scores),
        *_part_table(parts),
        "",
        "Exported by:",
        "",
        "```bash",
        shlex.join(command),
        "```",
        "",
        f"Scores and lineage: `python -m experiments.report {opened.path}`.",
    ]
    return ModelCard(data, "\n".join(lines) + "\n")


def _made_of(opened: OpenedRun, asked: str, individual: str) -> list[str]:
    facts, config = opened.facts, opened.config
    experts = ", ".join(opened.experts)
    title = asked if asked == individual else f"{asked} ({individual})"
    children = facts.evaluated_children if facts else 0
    return [
        f"# {title} of {opened.path.name}",
        "",
        f"Made with cycleqd_jax (search: {config.search}; CycleQD is arXiv 2410.14735) "
        f"from `{config.base_model}` and the experts {experts}, after "
        f"{children} children with seed {config.seed}.",
    ]


def _champions(opened: OpenedRun, individual: str) -> list[str]:
    if individual != AGGREGATED or opened.facts is None:
        return []
    return [
        "",
        "| archive | champion | weight |",
        "| --- | --- | --- |",
        *(
            f"| {group} | {champion.individual} | {champion.beta:.4f} |"
            for group, champion in opened.facts.aggregation.items()
        ),
    ]


def _test_scores(opened: OpenedRun, names: set[str]) -> dict[str, list[float]]:
    """Task -> scores of the `test` problems, in [0, 1]; empty if there are none.

    Tasks that the search did not see come last.
    """
    models = opened.facts.models if opened.facts else ()
    wanted = names | {m.scored_as for m in models if m.name in names}
    found: dict[str, dict[str, float]] = {}
    for splits in read_scores(opened.path, sorted(wanted)).values():
        for split in ("test", OUT_OF_DOMAIN):
            for task, problems in splits.get(split, {}).items():
                found.setdefault(task, {}).update(problems)
    further = opened.facts.out_of_domain if opened.facts else ()
    tasks = (*opened.tasks, *further)
    return {task: list(found[task].values()) for task in tasks if task in found}


def _results(
    opened: OpenedRun,
    scores: Mapping[str, Sequence[float]],
    pipeline: str,
    of_images: bool,
) -> list[huggingface_hub.EvalResult]:
    return [
        huggingface_hub.EvalResult(
            task_type=pipeline,
            dataset_type=task,
            dataset_name=task,
            dataset_split="test",
            dataset_args={
                "problems": len(values),
                "seed": opened.config.problems.seed,
            },
            metric_type="score" if of_images else "accuracy",
            metric_name="mean score" if of_images else "share of problems solved",
            metric_value=round(mean(values), 4),
        )
        for task, values in scores.items()
    ]


def _score_table(scores: Mapping[str, Sequence[float]]) -> list[str]:
    if not scores:
        return []
    lines = ["", "| task | score on `test` | 95 % interval | problems |"]
    lines += ["| --- | --- | --- | --- |"]
    for task, values in scores.items():
        low, high = score_interval(values)
        lines.append(
            f"| {task} | {mean(values):.3f} | [{low:.3f}, {high:.3f}] | {len(values)} |"
        )
    return lines


def _part_table(parts: Sequence[Part]) -> list[str]:
    lines = ["", "| part | from | licence |", "| --- | --- | --- |"]
    for part in parts:
        source = part.hub or part.source
        licence = part.licence.get("license_name") or part.licence.get("license")
        lines.append(f"| {part.role} | `{source}` | {licence or 'not known'} |")
    return lines


def _parts(opened: OpenedRun) -> list[Part]:
    named = {"base": opened.config.base_model}
    experts = opened.config.name_experts(opened.tasks)
    named |= {f"expert {name}": source for name, source in experts.items()}
    return [
        Part(role, source, _hub_name(source), _licence(source))
        for role, source in named.items()
    ]


def _hub_name(source: str) -> str | None:
    """`org/name` of a part that came from the hub.

    A folder that is gone may look like such a name, so the download must be here.
    """
    known = is_hub_name(source) and find_download(source) is not None
    return source.partition("@")[0] if known else None


def _licence(source: str) -> dict[str, str]:
    """The licence in the head of a part's card, or in its GGUF file; empty if none."""
    folder = _place(source)
    if folder is None:
        return {}
    if folder.is_file():
        return _licence_of_gguf(folder)
    try:
        data = huggingface_hub.ModelCard.load(folder / "README.md").data.to_dict()
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return {}  # no card, or one that is no card: nothing is known then
    return {key: data[key] for key in _LICENCE if isinstance(data.get(key), str)}


def _licence_of_gguf(path: pathlib.Path) -> dict[str, str]:
    try:
        name = read_gguf_metadata(path).get("general.license")
    except BadInputError:
        return {}
    return {"license": name.lower()} if isinstance(name, str) and name else {}


def _place(source: str) -> pathlib.Path | None:
    """A part's file or folder on this machine; None if it is elsewhere."""
    if is_url(source):
        return None
    if _hub_name(source):
        return find_download(source)
    try:
        return locate(source)
    except BadInputError:
        return None


def _common_licence(parts: Sequence[Part]) -> dict[str, Any]:
    """The licence that all parts have; empty if one has another or none is known."""
    first = parts[0].licence
    return dict(first) if all(part.licence == first for part in parts) else {}
