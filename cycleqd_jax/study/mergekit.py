"""Configs of mergekit and mergekit-evolve as configs of a run, where that is exact.

A merge of mergekit becomes a run of `search: merge` with one candidate, whose weights
are those of the merge. What mergekit-evolve searches becomes a run of `search: cma_es`.
Everything that this package would do otherwise is refused.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pydantic

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError, explain, show
from cycleqd_jax.files import parse_section
from cycleqd_jax.files.yaml import dump_yaml
from cycleqd_jax.merging.expert_names import NO_EXPERT
from cycleqd_jax.search.merges import MergeSettings
from cycleqd_jax.study import mergekit_values as read

_METHODS = ("linear", "task_arithmetic", "slerp", "ties", "dare_linear", "dare_ties")
_EVOLVED = ("linear", "task_arithmetic")
_OURS = {"linear": "sum", "task_arithmetic": "sum", "dare_linear": "dare"}
_KEYS = (
    *("merge_method", "models", "base_model", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "chat_template", "name"),
)
_EVOLVE_KEYS = ("genome", "tasks", "limit", "num_fewshot", "shuffle", "random_init")
_GENOME_KEYS = (
    *("models", "merge_method", "base_model", "tokenizer_source", "normalize"),
    *("layer_granularity", "allow_negative_weights", "filters", "smooth"),
)


class Conversion(NamedTuple):
    """A config of a run.

    Attributes:
      settings: of the run.
      remarks: sentences on what is not the same.
    """

    settings: dict[str, Any]
    remarks: tuple[str, ...]

    def text(self, source: str) -> str:
        """The config file, with the remarks as comments."""
        lines = [f"# From {source}, by python -m experiments.from_mergekit"]
        lines += [f"# {remark}" for remark in self.remarks]
        return "\n".join(lines) + "\n" + dump_yaml(self.settings)


def convert(
    data: Mapping[str, Any],
    tasks: Sequence[str] = (),
    base_model: str | None = None,
) -> Conversion:
    """Turns a config of mergekit or mergekit-evolve into one of a run.

    Args:
      data: as it was read.
      tasks: names, on which merges are scored; needed unless `data` has its own.
      base_model: from which all models were trained; None takes that of `data`.

    Raises:
      BadInputError: one sentence: what cannot be said here, or what is missing.
    """
    evolves = "genome" in data
    found = _evolution(data, base_model) if evolves else _merge(data, base_model)
    settings, remarks, own_tasks = found
    names = tuple(tasks) or own_tasks
    if not names:
        raise BadInputError(
            "--tasks is missing: a config of mergekit does not say on what a merge is "
            "scored; give two tasks or more."
        )
    experts: dict[str, str] = dict.fromkeys(names, NO_EXPERT)
    for name, place in settings["experts"].items():  # none is the expert of a task
        experts[f"{name}_expert" if name in names else name] = place
    settings |= {"tasks": list(names), "experts": experts}
    try:
        RunConfig.model_validate(settings)
    except pydantic.ValidationError as err:
        sentence = explain(err, settings, RunConfig)[1]
        raise BadInputError(f"the config that comes of it: {sentence}") from err
    order = ("base_model", "dtype", "tasks", "experts")
    first = {key: settings[key] for key in order}
    return Conversion(first | settings, tuple(remarks))


def _merge(data: Mapping[str, Any], base_model: str | None) -> Any:
    """Settings, remarks and tasks of a merge."""
    for key in ("slices", "modules"):
        if data.get(key):
            raise BadInputError(
                f"{key}: a model made of layers of several cannot be said here; list "
                "whole models under models."
            )
    read.check_keys("", data, _KEYS)
    method = read.method_of(data, _METHODS, "merge_method")
    shared = read.mapping(data.get("parameters") or {}, "parameters")
    read.check_parameters("parameters", method, shared)
    entries = data.get("models")
    if not isinstance(entries, list) or not entries:
        raise BadInputError("models: expected a list of models.")
    remarks: list[str] = []
    read.check_tokeniser(data, remarks)
    given = read.reference(data.get("base_model"), "base_model")
    base = read.base_of(method, given, base_model)
    values: dict[str, dict[str, float]] = {}
    for place, entry in enumerate(entries):
        where = f"models[{place}]"
        one = read.mapping({"model": entry} if isinstance(entry, str) else entry, where)
        read.check_keys(where, one, ("model", "parameters"))
        path = read.reference(one.get("model"), f"{where}.model")
        if path is None:
            raise BadInputError(f"{where}.model: is missing.")
        if path in values:
            raise BadInputError(f"{where}.model: {path} is there twice.")
        own = read.mapping(one.get("parameters") or {}, f"{where}.parameters")
        read.check_parameters(f"{where}.parameters", method, own)
        needed = path != base or method == "linear"
        values[path] = {
            name: read.parameter(name, method, where, own, shared)
            for name in read.OF_MODELS
            if name in read.PARAMETERS[method] and needed
        }
    flags = {
        name: read.parameter(name, method, "parameters", shared)
        for name in read.PARAMETERS[method]
        if name not in read.OF_MODELS
    }
    options = _options(method, base, given, values, flags)
    parse_section("the merge", options, MergeSettings)
    paths = [path for path in values if path != base]
    if method.startswith("dare"):
        remarks.append(
            "DARE drops other elements at random; the rest is divided by the density."
        )
    experts = read.named_experts(paths, base)
    settings = {
        "base_model": base,
        "dtype": read.dtype_of(data, remarks),
        "experts": experts,
        "search": "merge",
        "search_settings": options,
        "qd": {"num_generations": 1, "children_per_batch": 1},
        "aggregation": {"candidates": 1},
    }
    return settings, remarks, ()


def _options(
    method: str,
    base: str,
    given: str | None,
    values: Mapping[str, Mapping[str, float]],
    flags: Mapping[str, Any],
) -> dict[str, Any]:
    """`search_settings` of the merge."""
    paths = [path for path in values if path != base]
    if not paths:
        raise BadInputError("models: has no model beside the base.")
    options: dict[str, Any] = {"method": _OURS.get(method, method)}
    options["factors"] = [flags.get("lambda", 1.0)]
    if method == "slerp":
        if len(paths) != 2 or given not in paths:
            raise BadInputError(
                "models: slerp goes from base_model to another model; expected these "
                f"two, got {', '.join(paths)} and base_model {given}."
            )
        # It starts at the model that mergekit calls base_model.
        share = flags["t"] if paths[0] == given else 1 - flags["t"]
        return options | {"weights": [1 - share, share]}
    weights = {path: own.get("weight", 0.0) for path, own in values.items()}
    total = sum(weights.values())
    if method == "linear" and not flags["normalize"] and not math.isclose(total, 1):
        raise BadInputError(
            f"parameters.normalize: is false and the weights make {total:g}, so the "
            "base would be scaled too, which no sum of task vectors says; let them "
            "make 1."
        )
    by_sum = method in _OURS and flags["normalize"]
    if by_sum and abs(total) < 1e-8:
        raise BadInputError(
            f"models: the weights make {total:g}; nothing divides by it."
        )
    divisor = total if by_sum else 1.0
    options["weights"] = [weights[path] / divisor for path in paths]
    if "density" in read.PARAMETERS[method]:
        densities = {values[path]["density"] for path in paths}
        if len(densities) > 1:
            raise BadInputError(
                f"models: have the densities {', '.join(map(str, sorted(densities)))}; "
                "expected one for all."
            )
        options["densities"] = [densities.pop()]
    if method in ("ties", "dare_ties"):
        options["normalise"] = flags["normalize"]
    return options


def _evolution(data: Mapping[str, Any], base_model: str | None) -> Any:
    """Settings, remarks and tasks of a search."""
    more = ("apply_chat_template", "fewshot_as_multiturn")
    read.check_keys("", data, (*_EVOLVE_KEYS, *more))
    genome = read.mapping(data["genome"], "genome")
    read.check_keys("genome", genome, _GENOME_KEYS)
    method = read.method_of(genome, _EVOLVED, "genome.merge_method")
    if genome.get("layer_granularity") or genome.get("filters"):
        raise BadInputError(
            "genome.layer_granularity and genome.filters: groups of layers have no "
            "factors of their own here; leave both out, and every kind of matrix has."
        )
    remarks: list[str] = []
    read.check_tokeniser(genome, remarks)
    base = read.base_of(
        method, read.reference(genome.get("base_model"), "base_model"), base_model
    )
    models = genome.get("models")
    if not isinstance(models, list) or not models:
        raise BadInputError("genome.models: expected a list of models.")
    listed = [
        read.reference(m, f"genome.models[{i}]") or "" for i, m in enumerate(models)
    ]
    paths = [path for path in dict.fromkeys(listed) if path != base]
    remarks += [
        "CMA-ES has one factor per expert and kind of matrix, of either sign and not "
        "normalised; mergekit-evolve has one weight per model.",
        "The fitness is the plain mean of the tasks on problems.optimise.",
    ]
    names, problems = _evolved_tasks(data), {}
    if data.get("limit") is not None:
        problems = {"problems": {"optimise": data["limit"]}}
    if data.get("num_fewshot"):
        remarks.append("num_fewshot is not taken over; see the tasks' own settings.")
    settings = {
        "base_model": base,
        "dtype": "bfloat16",
        "experts": read.named_experts(paths, base),
        "search": "cma_es",
        "search_settings": {"start": round(1 / max(len(paths), 1), 6)},
        **problems,
    }
    return settings, remarks, names


def _evolved_tasks(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Tasks of lm-evaluation-harness, as a config of a run names them."""
    given = data.get("tasks") or []
    if not isinstance(given, list):
        raise BadInputError("tasks: expected a list of tasks.")
    names = []
    for place, entry in enumerate(given):
        name = entry.get("name") if isinstance(entry, Mapping) else entry
        if not isinstance(name, str):
            raise BadInputError(f"tasks[{place}]: expected a name, got {show(entry)}.")
        names.append(f"lm_eval:{name}")
    return tuple(dict.fromkeys(names))
