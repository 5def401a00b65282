"""Suite `cluster`: the rate of children with 1, 2 and 4 evaluators on Ray.

A child's evaluation only sleeps, so that evaluators of one machine do not compete for
its cores: what is measured is what the driver, the cluster and the order cost. Search,
checkpoints and results are those of a run. The cluster is the one of this host, as
`ray start --head` makes it; it needs one core at least.
"""

import contextlib
import pathlib
import tempfile
import time
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cycleqd_jax.evaluation.actor import Source
from cycleqd_jax.evaluation.base import Cost, Episode, Evaluation, select_problems
from cycleqd_jax.evaluation.ray import RayEvaluator
from cycleqd_jax.evaluation.ray_settings import RaySettings
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.genome import expert_genome
from cycleqd_jax.progress import Observer
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.runs.checkpoints import Checkpoints
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.loop import run_search
from cycleqd_jax.search.base import Context
from cycleqd_jax.search.random import RandomSearch
from cycleqd_jax.tasks.base import Problem, Split
from experiments.benchmarks import frame

_TASKS = ("a", "b", "c")
_SECONDS, _CHILDREN, _BATCH = 5.0, 32, 8
_LEAST = 0.9  # of linear


class _Task:
    max_new_tokens, fingerprint = 1, ""

    def __init__(self, name: str):
        self.name = name

    def problems(self, split: Split) -> tuple[Problem, ...]:
        return (Problem(f"{self.name}/{split}", "?", "!"),)


class _Sleeper:
    """An evaluator that sleeps for every individual."""

    tasks = tuple(map(_Task, _TASKS))

    def evaluate(self, individuals, split, *, problems=None, progress=None):
        time.sleep(_SECONDS * len(individuals))
        score = dict(outcome="solved", score=1.0, turns=1, tokens=(), replies=())
        texts = dict(answer="", reply="", explanation="", finish="stop")
        episodes = [
            Episode(name, str(split), task.name, problem.id, **score, **texts,
                    prompt_tokens=1, metrics={}, seconds=0.0)
            for name in individuals
            for task, problem in select_problems(self.tasks, split, problems)
        ]  # fmt: skip
        return Evaluation(episodes, Cost(len(episodes), 0, 0.0))


@contextlib.contextmanager
def open_sleeper() -> Iterator[tuple[_Sleeper, Mapping[str, Any]]]:
    """Opens the scripted evaluator in every evaluator's process."""
    yield _Sleeper(), {}


def run(options: frame.Options, say: frame.Say) -> list[frame.Row]:
    """Measures the suite; the options are of no use to it."""
    rows = []
    for in_order, order in ((True, "told in order"), (False, "told as they arrive")):
        rates = {}
        for count in (1, 2, 4):
            say(f"{count} evaluators, {order}")
            rates[count] = _rate(count, in_order)
            rows.append(
                frame.compare(
                    f"{count} evaluators, {order}",
                    rates[count],
                    count * rates[1],
                    "children/s",
                    target=_LEAST if count > 1 else None,
                    more_is_better=True,
                    note=f"{_CHILDREN} children of {_SECONDS:g} s, {_BATCH} a batch; "
                    "other: as many times the rate of one",
                )
            )
    return rows


def _rate(count: int, in_order: bool) -> float:
    """Children per second, after a first one that compiles the search."""
    settings = RaySettings(evaluators=count, resources={"CPU": 0.25})
    evaluator = RayEvaluator(
        settings,
        Source(f"{__name__}:open_sleeper", {}),
        tasks=_Sleeper.tasks,
        in_order=in_order,
        check=lambda facts: None,
        note=lambda text: None,
    )
    rng = np.random.default_rng(0)
    base = {"up.weight": rng.standard_normal((8, 8)).astype(np.float32)}
    experts = [
        types.SimpleNamespace(
            weights={n: w + rng.standard_normal(w.shape) for n, w in base.items()}
        )
        for _ in _TASKS
    ]
    basis = compute_basis(base, experts, expert_names=_TASKS)
    qd = QDSettings(num_generations=_BATCH, children_per_batch=_BATCH)
    search = RandomSearch(Context(qd, {}, basis, _TASKS, _TASKS))
    genomes = [expert_genome(basis, k) for k in range(len(_TASKS))]
    state = search.init(genomes, np.zeros((len(_TASKS),) * 2))
    with contextlib.ExitStack() as stack:
        place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = stack.enter_context(RunFolder(place / "run", resume=False))
        checkpoints = stack.enter_context(Checkpoints(folder.checkpoints))
        stack.enter_context(evaluator)
        evaluator.compile()
        for children in (1, 1 + _CHILDREN):
            start = time.perf_counter()
            state = run_search(
                search,
                state,
                seed=0,
                qd=qd.model_copy(update={"num_generations": children}),
                evaluator=evaluator,
                folder=folder,
                checkpoints=checkpoints,
                observer=Observer(),
            )
    return _CHILDREN / (time.perf_counter() - start)
