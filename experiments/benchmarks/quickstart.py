"""What the suites operators, population and loop measure: the world of a run."""

import pathlib

import numpy as np

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.progress import Observer
from cycleqd_jax.qd.archives import Archives, empty_archives
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.runs.checkpoints import CycleState
from cycleqd_jax.runs.loop import first_state, individual_name
from cycleqd_jax.runs.setup import Prepared, prepare
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


def experts_only(prepared: Prepared, bins: int) -> CycleState:
    """The state before generation 1, with made-up scores of the experts."""
    names = prepared.task_names
    scores = {
        individual_name(k, names): {task: 0.8 if task == own else 0.1 for task in names}
        for k, own in enumerate(names)
    }
    return first_state(prepared.basis, names, scores, [_RANGES] * len(names), bins)


def children_of(state: CycleState, count: int, seed: int = 0) -> Genome:
    """Genomes between the experts', float32 `[count, G]` and `[count, K]`."""
    rng = np.random.default_rng(seed)
    experts = state.bank.num_tasks
    batch = state.bank.gather(range(experts))
    shares = rng.dirichlet(np.ones(experts), count).astype(np.float32)
    return Genome(shares @ batch.coefficients, shares @ batch.scales)


def full_state(prepared: Prepared, bins: int) -> CycleState:
    """Archives with an elite of its own in every cell."""
    names = prepared.task_names
    first = experts_only(prepared, bins)
    experts = len(names)
    arrays = empty_archives([_RANGES] * experts, bins).to_numpy()
    cells = arrays["0/ids"].size
    count = experts * cells
    rng = np.random.default_rng(0)
    genomes = children_of(first, count)
    scores = rng.random((experts, cells, experts))
    for task in range(experts):
        bin_of = first.archives.cell_bins(task)  # [C, K - 1]
        others = [k for k in range(experts) if k != task]
        scores[task][:, others] = (bin_of + 0.5) / bins
        ids = experts + task * cells + np.arange(cells)
        arrays[f"{task}/ids"] = ids.astype(np.int32)
        arrays[f"{task}/fitnesses"] = scores[task][:, [task]].astype(np.float32)
        arrays[f"{task}/descriptors"] = bin_of.astype(np.float32)
        arrays[f"{task}/scores"] = scores[task].astype(np.float32)
    bank = first.bank
    bank = Bank(
        genomes={**bank.genomes, **{experts + i: genomes[i] for i in range(count)}},
        scores=np.vstack([bank.scores, scores.reshape(count, experts)]),
        parents=np.vstack([bank.parents, np.tile(np.int32([0, 1]), (count, 1))]),
        weights=np.vstack([bank.weights, np.ones((count, 2), np.float32)]),
        active=np.append(bank.active, np.repeat(np.arange(experts), cells)).astype(
            np.int32
        ),
    )
    return CycleState(Archives.from_numpy(arrays), bank, count + 1)
