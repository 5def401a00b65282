"""Reading a run folder, finished or still running: no lock, nothing is written.

`open_run` is where export, replay, language, report and other readers start. It gives
every individual of the run by name, as plain data or ready to use.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError, advising
from cycleqd_jax.evaluation.whole import WholeModels
from cycleqd_jax.files.remote import is_url
from cycleqd_jax.merging.basis_store import load_basis
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.genome import base_genome, scaled_sum, uniform
from cycleqd_jax.merging.individuals import Individual, TrainedExpert
from cycleqd_jax.models.loading import LoadedModel, load_any_model
from cycleqd_jax.qd.aggregation import aggregate_champions
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.runs import mirror, sums
from cycleqd_jax.runs.checkpoints import newest_whole, state_fingerprint
from cycleqd_jax.runs.facts import NAME, RunFacts, read_facts
from cycleqd_jax.runs.fingerprints import stored_fingerprints
from cycleqd_jax.runs.folder import check_kinds
from cycleqd_jax.runs.kinds import IMAGES, kind_of
from cycleqd_jax.runs.names import (
    AGGREGATED,
    BASE,
    BEST_OF_ARCHIVE,
    BEST_OF_SEARCH,
    champion_name,
    individual_name,
    trained_expert_name,
)
from cycleqd_jax.search.merges import SCALED, UNIFORM

_FINAL = (AGGREGATED, BEST_OF_ARCHIVE, BEST_OF_SEARCH, SCALED)
_TRIES = 3  # a running search may remove a checkpoint while it is read


@dataclasses.dataclass(frozen=True)
class OpenedRun:
    """A run folder; its parts are read when they are first asked for.

    Attributes:
      path: the folder.
      config: its settings.
      facts: the outcome; None while the run is not finished.
      tasks: K names, in the order of scores.
    """

    path: pathlib.Path
    config: RunConfig
    facts: RunFacts | None
    tasks: tuple[str, ...]

    @property
    def experts(self) -> tuple[str, ...]:
        """Their names, in the order of genomes' scales."""
        return tuple(self.config.name_experts(self.tasks))

    @functools.cached_property
    def bank(self) -> Bank:
        """All individuals, with the genomes of those that were kept.

        Raises:
          BadInputError: there is no checkpoint that can be read, or it is not the one
            that the finished run was compared with.
        """
        for _ in range(_TRIES):
            saved = newest_whole(self.path / "checkpoints")
            if saved is not None:
                break
        else:
            raise BadInputError(
                f"{self.path}: has no checkpoint that can be read; go on with the run "
                "with experiments.agent_skills --resume."
            )
        if self.facts and state_fingerprint(saved) != self.facts.state_fingerprint:
            raise BadInputError(
                f"{self.path}: its checkpoint is damaged or is not that of its "
                f"{NAME}; make it again with experiments.agent_skills --resume."
            )
        return saved.bank

    @functools.cached_property
    def basis(self) -> Basis:
        """The basis of the genomes."""
        return load_basis(self.path / "basis.safetensors").basis

    def names(self) -> list[str]:
        """Names of all individuals that `individual` knows."""
        trained = map(trained_expert_name, self.experts)
        return [*self._makers(), *self._kept(), *trained]

    def individual(self, name: str) -> Individual:
        """An individual by its name in results and reports.

        Args:
          name: like "aggregated", "champion/TASK", "expert/TASK" or "child/17".

        Raises:
          BadInputError: the name is unknown, or its genome was dropped.
        """
        kept, makers = self._kept(), self._makers()
        if name in kept:
            return self.bank.individual(kept[name])
        if name in makers:
            return makers[name]()
        for expert in self.experts:
            if name == trained_expert_name(expert):
                return TrainedExpert(expert)
        yet = " yet, those of this kind come when the run has finished"
        raise BadInputError(
            f"{name!r} is no individual of {self.path}"
            f"{yet if self.comes_later(name) else ''}; there are "
            f"{', '.join(self.names())}."
        )

    def resolve(self, name: str) -> str:
        """The child or expert behind a name like "champion/TASK"; else the name."""
        aggregation = self.facts.aggregation if self.facts else {}
        for group, champion in aggregation.items():
            if name == champion_name(group):
                return champion.individual
        return name

    def comes_later(self, name: str) -> bool:
        """True while the run is in progress, for names that only finished runs have."""
        final = name in _FINAL or name.startswith(champion_name(""))
        return self.facts is None and final

    def cells(self) -> dict[str, str]:
        """Name of a cell, like "TASK/7,3" -> its elite, a child or expert.

        Archives are written when a run is finished; before there are none, and none
        of a search without archives. The numbers are the cell's bins.

        Raises:
          BadInputError: the table of archives is damaged.
        """
        path = self.path / "archives.parquet"
        if self.facts is None or "bins" not in self.facts.search:
            return {}
        rows = files.read_table(sums.intact(path)).to_pylist()
        return {
            f"{row['archive']}/{','.join(map(str, row['bins']))}": row["individual"]
            for row in rows
        }

    def reread(self) -> "OpenedRun":
        """The run as it is by now, with the basis, which never changes, as it was."""
        again = dataclasses.replace(open_run(self.path), config=self.config)
        if "basis" in self.__dict__:
            again.__dict__["basis"] = self.basis
        return again

    def episodes(self, task: str) -> Iterator[Mapping[str, Any]]:
        """Rows of the results of one task, part by part.

        Raises:
          BadInputError: there are no results, or a part is damaged.
        """
        parts = sorted((self.path / "results").glob("*.parquet"))
        if not parts:
            raise BadInputError(f"{self.path}: has no results yet.")
        for part in parts:
            for row in files.read_table(sums.intact(part)).to_pylist():
                if row["task"] == task:
                    yield row

    def with_base(self, path: str | None) -> "OpenedRun":
        """The run with its base model elsewhere than its settings say.

        Args:
          path: where the same model is; None is where the settings say.
        """
        if path is None:
            return self
        config = self.config.model_copy(update={"base_model": path})
        return dataclasses.replace(self, config=config)

    def load_base(self, advice: str | None = None) -> LoadedModel:
        """The base model with its tokeniser, on the host.

        Args:
          advice: what to do where the base model itself is at fault; ends the message.

        Raises:
          BadInputError: it is missing, damaged, no language model, or not the one the
            run was made with.
        """
        if kind_of(self.config) == IMAGES:
            raise BadInputError(
                f"{self.path}: is a run of segmentation models, which have no text; "
                "give a run of language models."
            )
        wanted = stored_fingerprints(self.path)["base model"]
        with advising(advice):
            return self._base_of(wanted)

    def load_any_base(self) -> LoadedModel:
        """As `load_base`, also a segmentation model."""
        return self._base_of(stored_fingerprints(self.path)["base model"])

    def _base_of(self, wanted: str) -> LoadedModel:
        """The base model, which must have the fingerprint `wanted`."""
        config = self.config
        load = functools.partial(
            load_any_model, config.base_model, dtype=config.dtype, date=config.date
        )
        model = load()
        if model.fingerprint != wanted and kind_of(config) != IMAGES:
            # Experts may have changed it; only then must they be there.
            paths = config.name_experts(self.tasks).values()
            try:
                model = load(experts=tuple(paths), vocabulary=config.vocabulary)
            except BadInputError as err:
                raise BadInputError(
                    f"base_model: {model.source} alone is not the model that the run "
                    f"in {self.path} was made with, and its experts are not at hand: "
                    f"{err}"
                ) from err
        if model.fingerprint != wanted:
            raise BadInputError(
                f"base_model: {model.source} has other weights, settings or another "
                f"tokeniser now (sha256 {model.fingerprint[:12]}) than when the run in "
                f"{self.path} was made ({wanted[:12]}); bring the old file back."
            )
        return model

    def whole_models(self, base: LoadedModel) -> WholeModels:
        """Loads the weights of trained experts and adapters of this run."""
        return WholeModels(base, self.config.name_experts(self.tasks))

    def _kept(self) -> dict[str, int]:
        """Name -> id of the individuals whose genomes are in the bank."""
        return {individual_name(i, self.experts): i for i in sorted(self.bank.genomes)}

    def _makers(self) -> dict[str, Any]:
        """Name -> function that makes the genome, of models that no bank holds."""
        makers = {
            BASE: lambda: base_genome(self.basis),
            UNIFORM: lambda: uniform(self.basis),
        }
        if self.facts is None:
            return makers
        factor, kept = self.facts.scaled_merge.factor, self._kept()
        makers[SCALED] = lambda: scaled_sum(self.basis, factor)
        champions = self.facts.aggregation
        makers[AGGREGATED] = lambda: (
            aggregate_champions(
                self.bank,
                [kept[c.individual] for c in champions.values()],
                [champion.quality for champion in champions.values()],
            ).genome
        )
        stored = {champion_name(g): c.individual for g, c in champions.items()}
        stored |= {model.name: model.scored_as for model in self.facts.models}
        for name, individual in stored.items():
            if name not in makers and name not in kept:
                makers[name] = functools.partial(self.bank.individual, kept[individual])
        return makers


def open_run(path: str | os.PathLike[str], *, finished: bool = False) -> OpenedRun:
    """Opens a run folder for reading.

    Args:
      path: the folder, or the URL of its mirror, which is then fetched into the cache.
      finished: whether to refuse a run that has not been compared yet.

    Raises:
      BadInputError: it is no run folder, its settings or facts are damaged, or it is
        not finished although that was asked for.
    """
    url = os.fspath(path)
    path = mirror.fetched(url) if is_url(url) else pathlib.Path(path)
    check_kinds(path)
    if not (path / "config.yaml").is_file():
        raise BadInputError(f"{path}: is not a run folder; it has no config.yaml.")
    config = load_config(sums.intact(path / "config.yaml"), [], RunConfig)
    facts = read_facts(path)
    if finished and facts is None:
        raise BadInputError(
            f"{path}: holds no finished run ({NAME} is missing); finish it with "
            "experiments.agent_skills --resume."
        )
    tasks = facts.tasks if facts else files.read_sealed(path / "run.json")["tasks"]
    return OpenedRun(path, config, facts, tuple(tasks))
