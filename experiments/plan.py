"""Prints what a run will need, before it starts."""

import jax
import rich.console
import rich.table

from cycleqd_jax.config import RunConfig
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.memory import RunMemory
from cycleqd_jax.runs.memory_plan import size_text
from cycleqd_jax.runs.plan import Plan, make_plan

_KEPT_CHECKPOINTS = 3  # two, and the one that is being written


def print_plan(config: RunConfig, observer: Observer) -> None:
    """Checks all inputs that are here, and prints memory, episodes and time.

    Raises:
      BadInputError: an input is wrong, or the run does not fit this machine.
    """
    plan = make_plan(config, observer)
    table = rich.table.Table(title="Plan", show_header=False)
    for name, text in {**_sizes(config, plan), **_work(config, plan)}.items():
        table.add_row(name, text)
    console = rich.console.Console(highlight=False)
    console.print(table)
    for sentence in plan.not_looked_at:
        console.print(sentence, markup=False)
    if plan.misfit:
        console.print(f"Does not fit here: {plan.misfit}", markup=False)
    elif plan.not_looked_at:
        console.print("It would fit this machine.")
    if plan.memory.state.advice:
        console.print(plan.memory.state.advice)


def _sizes(config: RunConfig, plan: Plan) -> dict[str, str]:
    memory, state = plan.memory, plan.memory.state
    checkpoints = _KEPT_CHECKPOINTS * state.checkpoint_bytes
    disk = memory.basis_size + checkpoints
    making = memory.experts + memory.making
    return {
        "mode": memory.mode.reason,
        "parameters": f"{memory.parameters:,}",
        "basis": _basis_text(config, memory),
        "genome": f"{size_text(state.genome_bytes)}: {memory.basis.genome_size:,} "
        "coefficients",
        "memory: weights": size_text(memory.weights),
        "memory: basis": size_text(memory.basis_size),
        "memory: KV cache": size_text(memory.cache),
        f"memory: {memory.mode.mode} mode": size_text(memory.workspace),
        "memory: archives and bank, at most": f"{size_text(state.total_bytes)}: "
        f"{state.num_cells} cells {size_text(state.grid_bytes)}, {state.num_genomes} "
        f"genomes {size_text(state.bank_bytes)}",
        "memory: experts and basis, before": size_text(making),
        "disk: basis and checkpoints, at most": size_text(disk),
        "this machine": _machine_text(plan),
    }


def _basis_text(config: RunConfig, memory: RunMemory) -> str:
    layout, rank = memory.basis.layout, config.basis.rank
    counts = [memory.basis.v[slot.name].shape[1] for slot in layout]
    directions = max(counts, default=0)
    shown = "full rank" if rank == "full" else f"rank {rank}"
    return (
        f"{shown} of {len(config.tasks)} experts: up to {directions} directions in "
        f"each of {len(layout)} matrices"
    )


def _machine_text(plan: Plan) -> str:
    text = f"{size_text(plan.machine.host_bytes)} of memory"
    if plan.machine.device_bytes is not None:
        device = jax.local_devices()[0].device_kind
        text += f", {size_text(plan.machine.device_bytes)} on its {device}"
    return text


def _work(config: RunConfig, plan: Plan) -> dict[str, str]:
    rows = {
        "children": f"{config.qd.num_generations}, {config.qd.children_per_batch} at "
        "a time"
    }
    if plan.problems is not None:
        counts = ", ".join(f"{count} {name}" for name, count in plan.problems.items())
        rows["problems, all tasks together"] = counts
        for name, count in plan.episodes.items():
            rows[f"episodes: {name}"] = str(count)
    if plan.seconds is not None:
        minutes = max(1, round(plan.seconds / 60))
        rows["estimated time"] = f"about {minutes} min"
    return rows | {"run folder": str(config.run_dir)}
