"""The world of a run, for the suites operators, population and loop."""

import dataclasses
import pathlib
from typing import Protocol

import jax.numpy as jnp
import numpy as np

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.genome import Genome, expert_genome
from cycleqd_jax.progress import Observer
from cycleqd_jax.qd.archives import SCORES, empty_archives
from cycleqd_jax.runs.setup import Prepared, prepare
from cycleqd_jax.search.base import Search, State
from experiments.benchmarks.frame import DEFAULT_MODEL, Options, Say

CONFIG = "experiments/configs/quickstart.yaml"
_RANGES = (0.0, 1.0)


def run_config(options: Options) -> RunConfig:
    """The settings of the quickstart, or of the config that `--model` names.

    Raises:
      BadInputError: another model was asked for, which has no experts.
    """
    if options.model == DEFAULT_MODEL and not options.random_weights:
        return load_config(CONFIG, [], RunConfig)
    if pathlib.Path(options.model).suffix in (".yaml", ".yml"):
        return load_config(options.model, [], RunConfig)
    raise BadInputError(
        f"model: this suite needs experts, and {options.model} has none; leave it out, "
        "or give the YAML config of a run."
    )


def prepared_run(config: RunConfig, say: Say) -> Prepared:
    """Model, experts, basis and tasks of a config."""

    class Told(Observer):
        def phase(self, name: str) -> None:
            say(name)

    return prepare(config, None, Told())


class World(Protocol):
    """The parts of a prepared run that states are made of."""

    task_names: tuple[str, ...]
    basis: Basis
    search: Search


def experts_only(prepared: World) -> State:
    """The state before generation 1, with made-up scores of the experts."""
    count = len(prepared.task_names)
    experts = [expert_genome(prepared.basis, k) for k in range(count)]
    scores = np.where(np.eye(count, dtype=bool), 0.8, 0.1)
    return prepared.search.init(experts, scores)


def children_of(state: State, count: int, seed: int = 0) -> Genome:
    """Genomes between the experts', float32 `[count, G]` and `[count, K]`."""
    rng = np.random.default_rng(seed)
    experts = state.bank.num_experts
    batch = state.bank.gather(range(experts))
    shares = rng.dirichlet(np.ones(experts), count).astype(np.float32)
    return Genome(shares @ batch.coefficients, shares @ batch.scales)


def full_state(prepared: World, bins: int) -> State:
    """Archives with an elite of its own in every cell."""
    first = experts_only(prepared)
    experts = len(prepared.task_names)
    archives = empty_archives([_RANGES] * experts, bins)
    cells = archives.cell_bins(0).shape[0]
    count = experts * cells
    rng = np.random.default_rng(0)
    genomes = children_of(first, count)
    scores = rng.random((experts, cells, experts))
    repertoires = []
    for task, repertoire in enumerate(archives.repertoires):
        bin_of = archives.cell_bins(task)  # [C, K - 1]
        others = [k for k in range(experts) if k != task]
        scores[task][:, others] = (bin_of + 0.5) / bins
        own = jnp.asarray(scores[task], jnp.float32)
        ids = experts + task * cells + jnp.arange(cells, dtype=jnp.int32)
        repertoires.append(
            repertoire.replace(
                genotypes=ids,
                fitnesses=own[:, [task]],
                descriptors=jnp.asarray(bin_of, jnp.float32),
                extra_scores={SCORES: own},
            )
        )
    bank = first.bank
    bank = dataclasses.replace(
        bank,
        genomes={**bank.genomes, **{experts + i: genomes[i] for i in range(count)}},
        scores=np.vstack([bank.scores, scores.reshape(count, experts)]),
        parents=np.vstack([bank.parents, np.tile(np.int32([0, 1]), (count, 1))]),
        weights=np.vstack([bank.weights, np.ones((count, 2), np.float32)]),
        active=np.append(bank.active, np.repeat(np.arange(experts), cells)).astype(
            np.int32
        ),
        complete=np.ones(experts + count, bool),
    )
    archives = archives.replace(repertoires=tuple(repertoires))
    memory = first.memory.replace(archives=archives)
    return State(bank, count + 1, memory)
