"""What a run will need: memory, episodes and time, as far as they can be known.

Where everything that the config names is on this machine, all of it is loaded and
checked. Where weights or tasks are not here, the plan is made from the sizes of a
known model, and says what was not looked at. The network is never asked.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError, MissingDataError
from cycleqd_jax.merging.abstract import basis_bytes
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.memory import (
    Inputs,
    Machine,
    RunMemory,
    fitting_memory,
    peek_inputs,
    state_memory,
    this_machine,
)
from cycleqd_jax.runs.memory_plan import check_memory_plan
from cycleqd_jax.runs.setup import (
    Prepared,
    make_tasks,
    open_evaluator,
    open_sandbox,
    prepare,
)
from cycleqd_jax.runs.trackers import check_trackers
from cycleqd_jax.tasks.base import Split, Task

# Of the rate of a large matrix product, what a run was seen to reach all in all on two
# CPU cores; only the estimate of time rests on it.
_EFFICIENCY = 0.35


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run will need.

    Attributes:
      memory: by what it is for, and the mode of evaluation.
      machine: this one.
      misfit: what this machine has too little of, in one sentence, or None.
      problems: per split, of all tasks together; None where tasks are not here.
      episodes: by what they are for; None where tasks are not here.
      seconds: a rough estimate on this machine; None where not everything is here.
      not_looked_at: what is not here, one sentence each.
    """

    memory: RunMemory
    machine: Machine
    misfit: str | None
    problems: Mapping[str, int] | None
    episodes: Mapping[str, int] | None
    seconds: float | None
    not_looked_at: tuple[str, ...]


def make_plan(config: RunConfig, observer: Observer) -> Plan:
    """Checks all inputs that are here, and plans.

    Raises:
      BadInputError: an input is wrong, or the weights are here and the run does not
        fit this machine.
    """
    check_trackers(config.logging)
    tasks, absent = _tasks(config)
    inputs, machine = peek_inputs(config), this_machine()
    memory = fitting_memory(config, inputs, machine)
    check_memory_plan(memory.state, sys.maxsize)  # how many cells there may be at all
    misfit = memory.misfit(machine)
    if misfit and inputs.are_here:
        raise BadInputError(misfit)
    seconds = None
    if inputs.are_here and not absent:
        prepared = _check(config, observer)
        memory = _measured(config, memory, prepared)
        seconds = _seconds_per_episode(prepared)
    problems = None if absent else _problems(tasks)
    episodes = _episodes(config, problems, memory.state.num_individuals)
    if seconds is not None:
        seconds *= sum(episodes.values())
    return Plan(
        memory,
        machine,
        misfit,
        problems,
        episodes,
        seconds,
        tuple(_not_looked_at(config, inputs, absent)),
    )


def _check(config: RunConfig, observer: Observer) -> Prepared:
    sandbox = open_sandbox(config.sandbox)
    prepared = prepare(config, None, observer)
    with open_evaluator(config, prepared, sandbox):
        pass
    return prepared


def _measured(config: RunConfig, memory: RunMemory, prepared: Prepared) -> RunMemory:
    """The plan with the real basis, which may be smaller than its shapes promised."""
    return dataclasses.replace(
        memory,
        basis=prepared.basis,
        basis_size=basis_bytes(prepared.basis),
        mode=prepared.mode,
        state=state_memory(config, prepared.basis.genome_size),
    )


def _tasks(config: RunConfig) -> tuple[tuple[Task, ...], list[str]]:
    """The tasks whose data are here, and why the others are not."""
    make = functools.partial(
        make_tasks,
        problems=config.problems,
        own=config.task_settings,
        download=False,
    )
    present, absent = [], []
    for name in config.tasks:
        try:
            make([name])
        except MissingDataError as err:
            absent.append(str(err))
        else:
            present.append(name)
    return make(present), absent


def _problems(tasks: Sequence[Task]) -> dict[str, int]:
    return {
        split: sum(len(task.problems(split)) for task in tasks)
        for split in (Split.OPTIMISE, Split.VALIDATE, Split.TEST)
    }


def _episodes(
    config: RunConfig, problems: Mapping[str, int] | None, individuals: int
) -> dict[str, int] | None:
    if problems is None:
        return None
    tasks = len(config.tasks)
    merges = 1 + len(config.baselines.scaled_merge_factors)
    models = tasks + 5  # base, experts, two merges, two results
    candidates = min(config.aggregation.candidates * tasks, individuals)
    return {
        "children": config.qd.num_generations * problems[Split.OPTIMISE],
        "experts and merges": (1 + tasks + merges + 2) * problems[Split.OPTIMISE],
        "champions": candidates * problems[Split.VALIDATE],
        "comparison": models * problems[Split.TEST],
    }


def _not_looked_at(
    config: RunConfig, inputs: Inputs, absent: Sequence[str]
) -> list[str]:
    said = []
    if inputs.model.sizes_of is not None:
        said.append(
            f"The weights of {config.base_model} are not here: sizes are those of "
            f"{inputs.model.sizes_of}."
        )
    experts = [
        path
        for path, peek in zip(config.expert_paths, inputs.experts, strict=True)
        if peek is None
    ]
    if experts:
        said.append(
            f"Not here either: {', '.join(experts)}; they are taken for full "
            "fine-tunes."
            if said
            else f"Not here: {', '.join(experts)}; they are taken for full fine-tunes."
        )
    if absent:
        said += absent
        said.append("So their problems were not counted.")
    if said:
        said.append(
            "So prompts, files and the sandbox were not checked, and no time is "
            "estimated."
        )
    return said


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
