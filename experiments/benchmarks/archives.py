"""Suite `archives`: full archives of a large model, proposing, saving and restoring.

Only the model's sizes are needed: genomes are random, and there are no directions.
"""

import pathlib
import tempfile
import time
import types
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.merging.forms import DiagonalBasis, basis_shapes
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.qd.propose import propose
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.runs.checkpoints import Checkpoints
from cycleqd_jax.search.base import Context, State
from cycleqd_jax.search.registry import search_class
from experiments.benchmarks import frame, quickstart

MODEL = "llama-3-8b"
_RANK, _BINS, _BATCH = 64, 15, 8
_NAMES = ("a", "b", "c")
_MEGABYTES, _SECONDS = 200, 5


def run(options: frame.Options, say: frame.Say) -> list[frame.Row]:
    """Measures the suite; of the model only the sizes are needed.

    Raises:
      BadInputError: they are not known.
    """
    say("full archives")
    basis, state = _world(frame.known_config(options))
    t, settings = state.next_generation, QDSettings()

    def breed():
        nonlocal t
        found = propose(
            state.memory.archives,
            state.bank,
            basis,
            jax.random.key(0),
            range(t, t + _BATCH),
            settings=settings,
        )
        t += _BATCH
        return found.genomes

    took = frame.medians(frame.measure({"propose": breed}, options.repeats))
    size = state.bank.genomes[0].coefficients.size
    note = f"{_BATCH} at once, genomes of {size} coefficients"
    found = [frame.figure("propose a child", took["propose"] / _BATCH, "s", note=note)]
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        limits = {"megabytes": _MEGABYTES, "seconds": _SECONDS}
        return [*found, *rows(options, state, place, **limits)]


def _world(config: ModelConfig) -> tuple[DiagonalBasis, State]:
    """A basis without directions, which no operator here needs, and full archives."""
    shapes = basis_shapes(
        config.weight_shapes(),
        [None] * len(_NAMES),
        BasisSettings(rank=_RANK),
        expert_names=_NAMES,
    )
    values = np.random.default_rng(0).random(shapes.singular_values.shape)
    owners = [
        np.repeat(np.arange(len(_NAMES), dtype=np.int32), slot.rank)
        for slot in shapes.layout
    ]
    basis = shapes.replace(
        u={},
        v={},
        deltas={},
        singular_values=jnp.asarray(values, jnp.float32),
        experts_of=jnp.asarray(np.concatenate(owners)),
    )
    context = Context(QDSettings(bins=_BINS), {}, basis, _NAMES, _NAMES)
    world = types.SimpleNamespace(
        task_names=_NAMES, basis=basis, search=search_class("cycleqd")(context)
    )
    return basis, quickstart.full_state(world, _BINS)


def rows(
    options: frame.Options,
    state: State,
    folder: pathlib.Path,
    *,
    megabytes: float,
    seconds: float,
) -> list[frame.Row]:
    """Measures a state.

    Args:
      options: of the suite.
      state: of a search with archives.
      folder: gets the checkpoints.
      megabytes: limit of the memory.
      seconds: limit of saving, and of restoring.
    """
    count = len(state.memory.archives.kept_ids())
    bank = state.bank
    held = jax.tree.leaves((bank.genomes, state.memory.archives))
    held = [*held, bank.scores, bank.parents, bank.weights, bank.active]
    with Checkpoints(folder) as checkpoints:
        spent = {
            "save": _Spent(lambda: checkpoints.save(state)),
            "restore": _Spent(checkpoints.restore),
        }
        took = {}
        for name, act in spent.items():
            took |= frame.medians(frame.measure({name: act}, options.repeats))
    where = f"{count} elites of {state.bank.genomes[0].coefficients.size} coefficients"
    size = sum(a.nbytes for a in held) / 1e6
    return [
        frame.limit("archives: memory", size, megabytes, "MB", note=where),
        *(
            frame.limit(
                f"archives: {name}",
                took[name],
                seconds,
                "s",
                note=f"{where}; {act.mean():.2f} s of processor time",
            )
            for name, act in spent.items()
        ),
    ]


class _Spent:
    """Calls a function, and adds up the processor time of this process meanwhile."""

    def __init__(self, function: Callable[[], object]):
        self._function = function
        self._seconds = 0.0
        self._calls = 0

    def __call__(self) -> object:
        start = time.process_time()
        result = self._function()
        self._seconds += time.process_time() - start
        self._calls += 1
        return result

    def mean(self) -> float:
        """Seconds of a call."""
        return self._seconds / self._calls
