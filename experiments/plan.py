"""What a run will need, said before it starts."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table

from cycleqd_jax.config import RunConfig
from cycleqd_jax.observe import Observer
from cycleqd_jax.prepare import (
    Prepared,
    open_evaluator,
    open_sandbox,
    plan_memory,
    prepare,
)
from cycleqd_jax.tasks.base import Split

# Of the rate of a large matrix product, what a run was seen to reach all in all on two
# CPU cores; only the estimate of time rests on it.
_EFFICIENCY = 0.35


def print_plan(config: RunConfig, observer: Observer) -> None:
    """Checks all inputs and prints memory, children, problems and estimated time.

    Raises:
      BadInputError: an input is wrong.
    """
    sandbox = open_sandbox(config.sandbox)
    prepared = prepare(config, None, observer)
    state = plan_memory(config, prepared.basis)
    with open_evaluator(config, prepared, sandbox):
        pass
    engine, model = config.engine, prepared.model.config
    item = prepared.program.dtype.itemsize
    weights = sum(w.nbytes for w in prepared.weights.values())
    basis = sum(leaf.nbytes for leaf in jax.tree.leaves(prepared.basis))
    cache = 2 * model.num_hidden_layers * engine.slots * engine.length
    cache *= model.num_key_value_heads * model.head_dim * item
    problems = {
        split: sum(len(task.problems(split)) for task in prepared.tasks)
        for split in (Split.OPTIMISE, Split.VALIDATE, Split.TEST)
    }
    tasks = len(prepared.tasks)
    merges = 1 + len(config.baselines.scaled_merge_factors)
    models = tasks + 5  # base, experts, two merges, two results
    candidates = min(config.aggregation.candidates * tasks, state.num_individuals)
    episodes = {
        "children": config.qd.num_generations * problems[Split.OPTIMISE],
        "experts and merges": (1 + tasks + merges + 2) * problems[Split.OPTIMISE],
        "champions": candidates * problems[Split.VALIDATE],
        "comparison": models * problems[Split.TEST],
    }
    seconds = _seconds_per_episode(prepared) * sum(episodes.values())
    table = rich.table.Table(title="Plan", show_header=False)
    table.add_row("mode", prepared.mode.reason)
    table.add_row("memory: weights", _size(weights))
    table.add_row("memory: basis", _size(basis))
    table.add_row("memory: KV cache", _size(cache))
    table.add_row("memory: archives and bank, at most", _size(state.total_bytes))
    table.add_row("children", f"{config.qd.num_generations}, "
                  f"{config.qd.children_per_batch} at a time")  # fmt: skip
    counts = ", ".join(f"{count} {split}" for split, count in problems.items())
    table.add_row("problems, all tasks together", counts)
    for name, count in episodes.items():
        table.add_row(f"episodes: {name}", str(count))
    table.add_row("estimated time", f"about {max(1, round(seconds / 60))} min")
    table.add_row("run folder", str(config.run_dir))
    console = rich.console.Console(highlight=False)
    console.print(table)
    if state.advice:
        console.print(state.advice)


def _seconds_per_episode(prepared: Prepared) -> float:
    """From the work of an episode and the machine's rate for a matrix product."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    x = jnp.ones((size, size), prepared.program.dtype)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    start = time.perf_counter()
    product(x, x).block_until_ready()
    rate = 2 * size**3 / (time.perf_counter() - start)
    tokens = []
    for task in prepared.tasks:
        opening = list(task.dialogue(task.problems(Split.OPTIMISE)[0]))[:-1]
        prompt = len(prepared.model.tokenizer.encode_chat(opening))
        tokens.append(prompt + task.max_new_tokens / 2)
    parameters = sum(w.size for w in prepared.weights.values())
    return 2 * parameters * float(np.mean(tokens)) / (rate * _EFFICIENCY)


def _size(count: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"
