"""The settings of a comparison, and the runs that they stand for.

A method is a mapping of settings that override the base config's: keys of a run's
config, sections merged key by key (`qd: { mutation: none }`, or `qd.mutation: none`).
`preset` names a file of such settings, which come before the method's own. Two other
kinds of method need no search: `adapter`, a trained adapter or model that is evaluated
as it is, and `model`, a model that every run of the reference compares itself with.
"""

import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Self

import pydantic
from pydantic import AfterValidator, Field

from cycleqd_jax.config import RunConfig, with_preset
from cycleqd_jax.errors import BadInputError, explain, show
from cycleqd_jax.files import (
    Count,
    Fraction,
    Name,
    PathText,
    Section,
    Seed,
    Text,
    each_once,
)
from cycleqd_jax.files.overrides import laid_over, nested
from cycleqd_jax.files.yaml import read_mapping
from cycleqd_jax.runs.names import BASE, BEST_OF_ARCHIVE, expert_name
from cycleqd_jax.search.merges import SCALED, UNIFORM
from cycleqd_jax.search.registry import search_class

SUMMARY = "summary"  # a folder beside the methods'
_OWN = ("seed", "run_dir")  # settings that the comparison makes itself
Tokens = Annotated[int, Field(ge=0, le=10**15)]
OWN_EXPERTS = "own_experts"  # each task's own expert, see `ModelMethod`
_MODELS = (BASE, UNIFORM, SCALED, BEST_OF_ARCHIVE, OWN_EXPERTS)


class CompareConfig(Section):
    """Methods that are compared over seeds.

    Attributes:
      base: the run config that all methods share.
      settings: overrides of it, for all methods.
      seeds: of the search; every method runs with each.
      methods: name -> what it changes, or which adapter or model it is.
      reference: the method that the others are compared with.
      folder: of the comparison; runs/<name of the config file> by default.
      budget: tokens through the model that every search may take, see
        `results.method_cost`; it lowers `qd.num_generations`. None leaves that.
      resamples: number of resamples behind errors, of each kind.
      tolerance: share by which the tokens of a method may differ from the reference's
        before a remark is made.
      population: number of diverse individuals of a run's archives that are scored on
        `test` together, and of samples of one model; 0 scores none.
      temperature: of these samples.
    """

    base: PathText
    settings: Mapping[Text, Any] = Field(default_factory=dict)
    seeds: Annotated[
        tuple[Seed, ...], Field(strict=False, min_length=1), AfterValidator(each_once)
    ]
    methods: Annotated[Mapping[Name, Mapping[Text, Any]], Field(min_length=1)]
    reference: Name = "cycleqd"
    folder: PathText | None = None
    budget: Tokens | None = None
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 2000
    tolerance: Fraction = 0.1
    population: Count = 0
    temperature: Annotated[float, Field(gt=0, le=10)] = 0.7

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.reference not in self.methods:
            raise ValueError(
                f"reference is {self.reference!r}, which is not one of the methods "
                f"{', '.join(self.methods)}"
            )
        if SUMMARY in self.methods:
            raise ValueError(f"methods has {SUMMARY!r}, a name that the folder uses")
        if {"adapter", "model"} & set(self.methods[self.reference]):
            raise ValueError(
                f"reference is {self.reference!r}; expected a method with a search"
            )
        return self


class AdapterMethod(Section):
    """A trained adapter or model.

    Attributes:
      adapter: its folder.
      tokens: that its training took; None takes what `train_experts` wrote, if it did.
    """

    adapter: PathText
    tokens: Tokens | None = None


class ModelMethod(Section):
    """A model that runs evaluate anyway.

    Attributes:
      of: the method whose runs have it; None takes the reference.
      model: "base", "uniform_merge", "scaled_merge", "best_of_archive" (the individual
        with the best mean on `optimise`), "expert/<expert>", or "own_experts", which is
        no model: each task's score is that of its own expert. For a task without one,
        the expert answers that solves the most of its `optimise` problems. `of` must
        not condition them.
    """

    model: Text
    of: Name | None = None


Method = RunConfig | AdapterMethod | ModelMethod


class Study(NamedTuple):
    """A comparison whose methods were read.

    Attributes:
      config: its settings.
      folder: where everything is written.
      methods: by name; of those that search, the config without a seed of its own.
    """

    config: CompareConfig
    folder: pathlib.Path
    methods: Mapping[str, Method]

    @property
    def searches(self) -> dict[str, RunConfig]:
        """The methods that search."""
        found = self.methods.items()
        return {name: m for name, m in found if isinstance(m, RunConfig)}

    @property
    def reference(self) -> RunConfig:
        """The method that the others are compared with."""
        return self.searches[self.config.reference]

    def run_config(self, name: str, seed: int) -> RunConfig:
        """The config of one run."""
        place = str(self.folder / name / f"seed-{seed}")
        return self.searches[name].model_copy(update={"seed": seed, "run_dir": place})

    def run_of(self, name: str) -> str:
        """The search whose runs a method's result is read from, or evaluated as."""
        method = self.methods[name]
        if isinstance(method, RunConfig):
            return name
        return getattr(method, "of", None) or self.config.reference

    def seed_of(self, name: str, seed: int) -> int:
        """The seed of the run that has a method's result for a seed.

        It is the first one for a search that comes to the same with every seed.
        """
        return seed if self.is_seeded(name) else self.config.seeds[0]

    def is_seeded(self, name: str) -> bool:
        """False for a search that comes to the same with every seed."""
        config = self.searches[name]
        return search_class(config.search).is_seeded(config.search_settings)

    def cells(self) -> list[tuple[str, int]]:
        """Name and seed of every run, all methods of a seed together."""
        seeds, names = self.config.seeds, self.searches
        return [(n, s) for s in seeds for n in names if self.seed_of(n, s) == s]


def open_study(config: CompareConfig, name: str) -> Study:
    """Reads the base config and makes the methods.

    Args:
      config: the settings.
      name: of the config file without its ending.

    Raises:
      BadInputError: a file is missing or a setting is wrong; it names the method.
    """
    base = with_preset(read_mapping(config.base), config.base)
    shared = laid_over(base, nested(config.settings, "settings"))
    methods = {n: _method(n, own, shared) for n, own in config.methods.items()}
    folder = pathlib.Path(config.folder or f"runs/{name}")
    study = Study(config, folder, methods)
    for label, method in methods.items():
        if isinstance(method, ModelMethod):
            _check_model(study, label, method)
    return study


def _check_model(study: Study, label: str, method: ModelMethod) -> None:
    name = study.run_of(label)
    run = study.searches.get(name)
    if run is None:
        raise BadInputError(
            f"methods.{label}: of is {show(name)}; expected a method with a search: "
            f"{', '.join(study.searches)}."
        )
    known = *_MODELS, *map(expert_name, run.name_experts(run.tasks))
    if method.model not in known:
        raise BadInputError(
            f"methods.{label}: model {method.model!r} is unknown; expected "
            f"{', '.join(known)}."
        )
    if method.model == OWN_EXPERTS and run.basis.conditioning != "none":
        raise BadInputError(
            f"methods.{label}: the runs of {name} have conditioned experts, not those "
            "that were trained; set of to a method with basis.conditioning: none."
        )


def _method(name: str, own: Mapping[str, Any], shared: Mapping[str, Any]) -> Method:
    if "adapter" in own:
        return _parse(name, own, AdapterMethod)
    if "model" in own:
        return _parse(name, own, ModelMethod)
    own = dict(own)
    layers = [nested(own, f"methods.{name}")]
    if (preset := own.pop("preset", None)) is not None:
        if not isinstance(preset, str):
            raise BadInputError(
                f"methods.{name}: preset is {show(preset)}; expected a file."
            )
        layers = [nested(read_mapping(preset), preset), nested(own, name)]
    data = dict(shared)
    for layer in layers:
        for key in _OWN:
            if key in layer:
                raise BadInputError(
                    f"methods.{name}: sets {key}, which the comparison sets; leave it "
                    "out."
                )
        if layer.get("search", data.get("search")) != data.get("search"):
            data["search_settings"] = {}  # those of another search
        data = laid_over(data, layer)
    return _parse(name, {k: v for k, v in data.items() if k not in _OWN}, RunConfig)


def _parse(name: str, data: Mapping[str, Any], kind: type[Section]) -> Any:
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as err:
        sentence = explain(err, data, kind)[1]
        raise BadInputError(f"methods.{name}: {sentence}") from err
