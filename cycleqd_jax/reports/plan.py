"""The plan of a run as text, for `--dry-run`."""

import jax

from cycleqd_jax.config import RunConfig
from cycleqd_jax.runs.conditioning import gram_bytes
from cycleqd_jax.runs.device_memory import tree_bytes
from cycleqd_jax.runs.kinds import IMAGES, kind_of
from cycleqd_jax.runs.memory import RunMemory, size_text
from cycleqd_jax.runs.plan import Plan

_CHECKPOINTS = 3  # two are kept while the next is written
_CELLS_PER_INDIVIDUAL = 10  # with more, almost every child finds an empty cell


def plan_rows(config: RunConfig, plan: Plan) -> dict[str, str]:
    """The rows of a table: sizes, problems, episodes and time."""
    memory, state, qd = plan.memory, plan.memory.state, config.qd
    on_disk = tree_bytes(memory.basis) + _CHECKPOINTS * state.total_bytes
    each = f", on each of {memory.devices} devices" if memory.devices > 1 else ""
    rows = {
        "mode": memory.mode.reason,
        "parameters": f"{memory.parameters:,}",
        "basis": _basis_text(config, memory),
        "genome": f"{size_text(state.genome_bytes)}: {memory.basis.genome_size:,} "
        "coefficients",
    }
    if config.basis.conditioning != "none":
        grams = gram_bytes(config, plan.inputs.model)
        rows["conditioning"] = (
            f"{config.basis.conditioning}: {size_text(grams.device)} of Gram matrices "
            f"for each layer, {size_text(grams.host)} for each solve, before the search"
        )
    for name, size in memory.device.items():
        rows[f"memory: {name}{each}"] = size_text(size)
    rows |= {
        "memory: archives and bank, at most": f"{size_text(state.total_bytes)}: "
        f"{state.cells} cells {size_text(state.grid_bytes)}, {state.genomes} genomes "
        f"and all scores {size_text(state.bank_bytes)}",
        "disk: basis and checkpoints, at most": size_text(on_disk),
        "this machine": _machine_text(plan),
        "children": f"{qd.num_generations}, {qd.children_per_batch} at a time",
    }
    if plan.problems is not None:
        counts = (f"{count} {split}" for split, count in plan.problems.items())
        rows["problems, all tasks together"] = ", ".join(counts)
        for name, count in plan.episodes.items():
            rows[f"episodes: {name}"] = str(count)
    if plan.seconds is not None:
        rows["estimated time"] = f"about {max(1, round(plan.seconds / 60))} min"
    return rows | {"run folder": str(config.run_dir)}


def plan_remarks(config: RunConfig, plan: Plan) -> list[str]:
    """Sentences below the table: what was not checked, what is wrong or unwise."""
    remarks, state = _not_checked(config, plan), plan.memory.state
    misfit = plan.memory.misfit(plan.machine)
    if misfit:
        remarks.append(f"Does not fit here: {misfit}")
    elif remarks:
        remarks.append("It would fit this machine.")
    cells = state.cells // len(config.tasks)
    if cells > _CELLS_PER_INDIVIDUAL * state.individuals:
        remarks.append(
            f"Each archive has {cells} cells for {state.individuals} individuals, so "
            "almost every child finds an empty cell; fewer bins make them compete."
        )
    return remarks


def _not_checked(config: RunConfig, plan: Plan) -> list[str]:
    if plan.is_complete:
        return []
    inputs, said, of_images = plan.inputs, [], kind_of(config) == IMAGES
    if inputs.sizes_of is not None:
        said.append(
            f"The weights of {config.base_model} are not here: sizes are those of "
            f"{inputs.sizes_of}."
        )
    pairs = zip(config.expert_paths, inputs.experts, strict=True)
    if absent := ", ".join(path for path, expert in pairs if expert is None):
        said.append(f"Not here: {absent}; they are taken for full fine-tunes.")
    if plan.missing_data:
        counted = "images" if of_images else "problems"
        said += [*plan.missing_data, f"So their {counted} were not counted."]
    unread = "files" if of_images else "prompts, files and the sandbox"
    return [*said, f"So {unread} were not checked, and no time is estimated."]


def _basis_text(config: RunConfig, memory: RunMemory) -> str:
    rank, basis = config.basis.rank, memory.basis
    directions = max((v.shape[1] for v in basis.v.values()), default=0)
    shown = "full rank" if rank == "full" else f"rank {rank}"
    return (
        f"{shown} of {basis.num_experts} experts: up to {directions} directions in "
        f"each of {len(basis.layout)} matrices"
    )


def _machine_text(plan: Plan) -> str:
    text = f"{size_text(plan.machine.host_bytes)} of memory"
    if plan.machine.device_bytes is not None:
        device = jax.local_devices()[0].device_kind
        text += f", {size_text(plan.machine.device_bytes)} on its {device}"
    return text
