"""A scripted evaluator for processes and hosts of its own, and a search over it.

    python remote_world.py FOLDER ADDRESS NUM_GENERATIONS

runs that search in FOLDER on a Ray cluster, in order, and may be killed.
"""

import contextlib
import os
import pathlib
import sys
import time

import numpy as np
from named_task import NamedTask
from scripted import ScriptedEvaluator

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.actor import Source
from cycleqd_jax.evaluation.ray import RayEvaluator
from cycleqd_jax.evaluation.ray_settings import RaySettings
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.genome import Genome, expert_genome
from cycleqd_jax.progress import Observer
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.runs.checkpoints import Checkpoints
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.loop import run_search
from cycleqd_jax.search.base import Context
from cycleqd_jax.search.cycleqd import CycleQD

TASKS = ("a", "b", "c")
FACTS = {"host": "here", "weights": "right"}


def share(individual, task):
    if not isinstance(individual, Genome):
        return 0.25
    return float(np.asarray(individual.scales)[TASKS.index(task)])


def rule(individual, task, index):
    return float(abs(share(individual, task) - 0.6) < 0.15 * (index + 1))


def likelihood(individual, task, index):
    return float("nan") if task == "c" else -abs(share(individual, task) - 0.6) - index


def reading(individual, index):
    return -share(individual, "a") - index


class LoggingEvaluator(ScriptedEvaluator):
    """Sleeps for every individual, and logs who evaluated it."""

    def __init__(self, log=None, seconds=0.0):
        super().__init__(map(NamedTask, TASKS), rule, likelihood, reading)
        self._log, self._seconds = log, seconds

    def evaluate(self, individuals, split, **more):
        for name in individuals:
            if self._log is not None:
                with open(self._log, "a") as file:
                    file.write(f"{os.getpid()} {os.getppid()} {name}\n")
            time.sleep(self._seconds)
        return super().evaluate(individuals, split, **more)

    def fail(self, kind):
        raise {"bad": BadInputError, "other": KeyError}[kind]("it is wrong.")


@contextlib.contextmanager
def open_scripted(log=None, seconds=0.0, weights="right", closed=None):
    if weights == "missing":
        raise BadInputError("ray: no evaluator can work on here: there are none.")
    yield LoggingEvaluator(log, seconds), FACTS | {"weights": weights}
    if closed is not None:
        pathlib.Path(closed).touch()


def source(**arguments):
    return Source("remote_world:open_scripted", arguments)


def check(facts):
    if facts["weights"] != FACTS["weights"]:
        return f"ray: the evaluator on {facts['host']} has other weights."
    return None


def ray_evaluator(address, note=print, in_order=True, settings=None, **arguments):
    return RayEvaluator(
        RaySettings(address=address, **{"evaluators": 2} | (settings or {})),
        source(**arguments),
        tasks=tuple(map(NamedTask, TASKS)),
        in_order=in_order,
        check=check,
        note=note,
    )


def make_basis():
    rng = np.random.default_rng(0)

    class Expert:
        def __init__(self, base):
            self.weights = {
                n: w + rng.standard_normal(w.shape).astype(np.float32)
                for n, w in base.items()
            }

    base = {"up.weight": rng.standard_normal((9, 6)).astype(np.float32)}
    return compute_basis(base, [Expert(base) for _ in TASKS], expert_names=TASKS)


def run(folder, evaluator, stop=12, **qd):
    """A search that resumes; returns its state."""
    qd = QDSettings(**{"num_generations": stop, "children_per_batch": 4} | qd)
    basis = make_basis()
    search = CycleQD(Context(qd, {}, basis, TASKS, TASKS))
    experts = [expert_genome(basis, k) for k in range(3)]
    scores = [[np.mean([rule(e, t, i) for i in range(4)]) for t in TASKS]
              for e in experts]  # fmt: skip
    state = search.init(experts, np.asarray(scores))
    with RunFolder(folder, resume=True) as opened:
        with Checkpoints(opened.checkpoints) as checkpoints:
            saved = checkpoints.restore()
            if saved is not None:
                opened.drop_batches_from(saved.next_generation)
                state = saved.into(state)
            return run_search(
                search,
                state,
                seed=0,
                qd=qd,
                evaluator=evaluator,
                folder=opened,
                checkpoints=checkpoints,
                observer=Observer(),
            )


if __name__ == "__main__":
    place, address, stop = sys.argv[1:]
    with ray_evaluator(address, seconds=0.2) as evaluator:
        run(place, evaluator, int(stop))
