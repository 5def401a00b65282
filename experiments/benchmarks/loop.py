"""Suite `loop`: where the time of a generation goes."""

import contextlib
import dataclasses
import pathlib
import statistics
import tempfile
import time

from cycleqd_jax.evaluation.local import LocalEvaluator
from cycleqd_jax.progress import BatchSummary, Observer
from cycleqd_jax.runs.checkpoints import Checkpoints
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.loop import run_search
from cycleqd_jax.runs.setup import open_evaluator
from cycleqd_jax.sandbox.base import Execution, Program, Sandbox
from cycleqd_jax.sandbox.make import make_sandbox
from experiments.benchmarks import frame, quickstart

_PROBLEMS = 8  # a task at most; a batch of the whole quickstart takes minutes
_MOST = 0.05  # of a batch


def run(options: frame.Options, say: frame.Say) -> list[frame.Row]:
    """Measures the suite."""
    config = quickstart.run_config(options)
    problems = min(config.problems.optimise, _PROBLEMS)
    config = config.model_copy(
        update={"problems": config.problems.model_copy(update={"optimise": problems})}
    )
    prepared = quickstart.prepared_run(config, say)
    sandbox = _Watched(make_sandbox(config.sandbox))
    state = quickstart.experts_only(prepared)
    qd = config.qd
    batches: list[_Parts] = []
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = stack.enter_context(RunFolder(folder / "run", resume=False))
        checkpoints = stack.enter_context(Checkpoints(folder.checkpoints))
        evaluator = stack.enter_context(open_evaluator(config, prepared, sandbox))
        say("compiling the engine")
        evaluator.compile()
        for batch in range(-1, options.repeats):  # the first one is warm-up
            say(f"a batch of {qd.children_per_batch} children")
            last = state.next_generation - 1 + qd.children_per_batch
            watch = _Watch(evaluator, sandbox)
            state = run_search(
                prepared.search,
                state,
                seed=config.seed,
                qd=qd.model_copy(update={"num_generations": last}),
                evaluator=evaluator,
                folder=folder,
                checkpoints=checkpoints,
                observer=watch,
            )
            if batch >= 0:
                batches.append(watch.parts)
    return _rows(batches, qd.children_per_batch, problems)


@dataclasses.dataclass(frozen=True)
class _Parts:
    """A batch's wall time, and shares of it.

    Attributes:
      seconds: from the first line of the batch to its checkpoint.
      device: in calls of the model.
      sandbox: with nothing to compute while programs ran.
    """

    seconds: float
    device: float
    sandbox: float

    @property
    def rest(self) -> float:
        """In neither."""
        return 1.0 - self.device - self.sandbox


class _Watched:
    """A sandbox that notes when the first of its programs begins."""

    def __init__(self, inner: Sandbox):
        self._inner = inner
        self.on_first = lambda: None

    async def run(self, program: Program) -> Execution:
        first, self.on_first = self.on_first, lambda: None
        first()
        return await self._inner.run(program)

    async def close(self) -> None:
        await self._inner.close()


class _Watch(Observer):
    """Measures one batch."""

    def __init__(self, evaluator: LocalEvaluator, sandbox: _Watched):
        self._stats = evaluator.stats
        self._before = self._stats.copy()
        self._start = time.perf_counter()
        # Until a program runs an idle engine waits for us: prompts are made.
        self._ours = self._stats.idle_seconds
        sandbox.on_first = self._note_idle

    def _note_idle(self) -> None:
        self._ours = self._stats.idle_seconds

    def batch(self, summary: BatchSummary) -> None:
        seconds = time.perf_counter() - self._start
        used = self._stats.since(self._before)
        idle = self._stats.idle_seconds - self._ours
        self.parts = _Parts(seconds, used.device_seconds / seconds, idle / seconds)


def _rows(batches: list[_Parts], children: int, problems: int) -> list[frame.Row]:
    def median(name: str) -> float:
        return statistics.median(getattr(batch, name) for batch in batches)

    what = f"{children} children x {problems} problems a task"
    seconds = median("seconds")
    return [
        frame.limit(
            "share of a generation outside model and sandbox",
            median("rest"),
            _MOST,
            "of wall time",
            note=what,
        ),
        frame.figure(
            "outside model and sandbox, per batch", median("rest") * seconds, "s"
        ),
        frame.figure("share in the model", median("device"), "of wall time"),
        frame.figure(
            "share in the sandbox with nothing to compute",
            median("sandbox"),
            "of wall time",
        ),
        frame.figure("a batch of children", seconds, "s", note=what),
    ]
