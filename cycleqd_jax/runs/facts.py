"""`state.json`: the outcome of a finished run, in one schema for writer and readers."""

import os
import pathlib
from typing import Any

import pydantic

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.runs.names import AGGREGATED, champion_name

NAME = "state.json"


class _Facts(pydantic.BaseModel, frozen=True):
    pass


class ComparedModel(_Facts):
    """A row of the table of models.

    Attributes:
      name: in tables and on command lines.
      scored_as: the name of its episodes on `optimise` and `validate` in the results.
    """

    name: str
    scored_as: str


class ChampionFacts(_Facts):
    """The individual that stands for a group in the aggregated model.

    Attributes:
      individual: its name.
      quality: its score on `optimise`.
      validated: its score on `validate`; None where nothing was validated.
      beta: its weight in the aggregated model.
    """

    individual: str
    quality: float
    validated: float | None
    beta: float


class ScaledMergeFacts(_Facts):
    """The factor of the scaled merge, and the mean score of every merge tried."""

    factor: float
    tried: dict[str, float]


class TokenCost(_Facts):
    """Tokens through the model, see `runs.costs.PhaseCost`."""

    tokens_forward: int
    tokens_backward: int


class RetentionFacts(_Facts):
    """Log-probability of plain text, in nats; see `runs.retention`.

    Attributes:
      nats_per_token: mean over all tokens of the text.
      nats_per_byte: mean over all its bytes.
      difference: of the nats per token from the base's, mean over texts.
      standard_error: of the difference.
    """

    nats_per_token: float
    nats_per_byte: float
    difference: float
    standard_error: float


class RunFacts(_Facts):
    """A finished run.

    Attributes:
      tasks: K names, in the order of scores.
      evaluated_children: their number.
      state_fingerprint: hash of the search's final state.
      models: all that were compared, in the order of the report.
      result: the model that the run is about; one of `models`.
      best: name of the individual with the best mean on `optimise`.
      aggregation: champions by group, such as the archive of a task.
      scaled_merge: the baseline's factor.
      search: what the search itself says, see `search.base.Summary`.
      cost: of the phases that sent tokens through the model, see `runs.costs`.
      retention: of the compared models, by name; empty where it was not measured.
      out_of_domain: name of a task that the search did not see -> its entry in the
        config.
      population: number of diverse individuals that played `test`.
    """

    tasks: tuple[str, ...]
    evaluated_children: int
    state_fingerprint: str
    models: tuple[ComparedModel, ...]
    result: str
    best: str
    aggregation: dict[str, ChampionFacts]
    scaled_merge: ScaledMergeFacts
    search: dict[str, Any]
    cost: dict[str, TokenCost] = {}
    retention: dict[str, RetentionFacts] = {}
    out_of_domain: dict[str, str] = {}
    population: int = 0

    def parents(self, model: str) -> tuple[str, ...]:
        """The champions behind the aggregated model, or the one that a result is."""
        own = {champion_name(g): c.individual for g, c in self.aggregation.items()}
        if model in own:
            return (own[model],)
        return tuple(dict.fromkeys(own.values())) if model == AGGREGATED else ()


def write_facts(run: pathlib.Path, facts: RunFacts) -> None:
    """Writes `state.json` with a checksum, in one step."""
    files.write_sealed(run / NAME, facts.model_dump(mode="json"))


def read_facts(run: str | os.PathLike[str]) -> RunFacts | None:
    """Reads `state.json`; None where a run is not finished.

    Raises:
      BadInputError: it is damaged, or of another version.
    """
    path = pathlib.Path(run) / NAME
    if not path.exists():
        return None
    try:
        return RunFacts.model_validate(files.read_sealed(path))
    except pydantic.ValidationError as err:
        problem = err.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise BadInputError(
            f"{path}: was written by another version ({where}: {problem['msg']}); make "
            "it again with experiments.agent_skills --resume."
        ) from err
