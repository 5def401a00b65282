"""The memory that a whole run needs, from shapes alone, and whether a machine has it.

All sizes are what is certainly needed: what is refused could not have run.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.inference.population import ModeChoice, choose_mode
from cycleqd_jax.merging.abstract import (
    ExpertShape,
    abstract_basis,
    abstract_core_basis,
    basis_bytes,
    expert_shape,
    full_expert_shape,
)
from cycleqd_jax.merging.core_basis import AnyBasis
from cycleqd_jax.merging.noise import noise_length
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.models.experts import LoraExpert
from cycleqd_jax.models.peek import (
    ExpertPeek,
    ModelPeek,
    peek_expert,
    peek_model,
)
from cycleqd_jax.runs.engine_size import cache_bytes
from cycleqd_jax.runs.machine import Machine, advice_for, this_machine
from cycleqd_jax.runs.memory_plan import MemoryPlan, memory_plan, size_text

_FLOAT32 = 4


class Inputs(NamedTuple):
    """What a config names, from outside.

    Attributes:
      model: the base model.
      experts: in the order of the tasks; None where one is not here.
    """

    model: ModelPeek
    experts: tuple[ExpertPeek | None, ...]

    @property
    def are_here(self) -> bool:
        """Whether all weights are on this machine."""
        return self.model.sizes_of is None and None not in self.experts


@dataclasses.dataclass(frozen=True)
class RunMemory:
    """Sizes in bytes, where not said otherwise.

    Attributes:
      parameters: of the base model, their number.
      basis: its shapes.
      mode: how individuals are evaluated, and why.
      state: archives and bank.
      weights: the base model's, on the device; as much again on the host.
      basis_size: of the basis on the device.
      cache: the engine's keys and values.
      workspace: one individual's weights and the largest product on the way to them,
        or the population's table.
      call: what the largest of the engine's calls computes on its way.
      experts: as loaded, on the host until there is a basis.
      making: the experts' directions, on the host while the basis is computed or read.
      data: devices that the slots are divided among.
      tensor: devices that weights, basis and heads are divided among.
    """

    parameters: int
    basis: AnyBasis
    mode: ModeChoice
    state: MemoryPlan
    weights: int
    basis_size: int
    cache: int
    workspace: int
    call: int
    experts: int
    making: int
    data: int = 1
    tensor: int = 1

    @property
    def on_device(self) -> dict[str, int]:
        """What one device of the mesh holds while individuals are evaluated."""
        return {
            "the base weights": self.weights // self.tensor,
            "the basis": self.basis_size // self.tensor,
            "the KV cache": self.cache // (self.data * self.tensor),
            "a call of the engine": self.call // (self.data * self.tensor),
            f"{self.mode.mode} mode": self.workspace // self.tensor,
        }

    def room(self, machine: Machine) -> int:
        """Bytes for the cache, on all devices together; negative if there are none."""
        used = sum(self.on_device.values())
        used -= self.cache // (self.data * self.tensor)
        if machine.device_bytes is not None:
            return (machine.device_bytes - used) * self.data * self.tensor
        state = self.state.total_bytes + self.state.checkpoint_bytes
        return machine.host_bytes - used - self.weights - state

    def misfit(self, machine: Machine) -> str | None:
        """What a machine has too little of, in one sentence with numbers, or None."""
        shared = machine.device_bytes is None
        on_device = self.on_device
        running = {
            "the base weights as loaded": self.weights,
            "archives and bank": self.state.total_bytes,
            "them again in a checkpoint": self.state.checkpoint_bytes,
        }
        making = {
            "the base weights": self.weights,
            "the experts": self.experts,
            "the basis as computed": self.making,
        }
        if shared:
            running = on_device | running
            making["the basis as kept"] = self.basis_size
        memory = "this machine"
        needs = [
            ("computing the basis", making, machine.host_bytes, memory),
            ("the run", running, machine.host_bytes, memory),
        ]
        if not shared:
            needs.append(
                ("the run", on_device, machine.device_bytes, "the accelerator")
            )
        what, parts, has, place = max(needs, key=lambda n: sum(n[1].values()) / n[2])
        total = sum(parts.values())
        if total <= has:
            return None
        advice = advice_for((parts, has) for _, parts, has, _ in needs)
        listed = ", ".join(f"{name} {size_text(n)}" for name, n in parts.items())
        return (
            f"memory: {what} needs {size_text(total)} ({listed}), but {place} has "
            f"{size_text(has)}; choose {advice}, or a machine with more."
        )


def peek_inputs(config: RunConfig) -> Inputs:
    """Looks at the base model and the experts, without loading or downloading them.

    Raises:
      BadInputError: one is damaged, or is neither here nor known.
    """
    model = peek_model(config.base_model)
    experts = [peek_expert(path, model.config) for path in config.expert_paths]
    return Inputs(model, tuple(experts))


def fitting_memory(config: RunConfig, inputs: Inputs, machine: Machine) -> RunMemory:
    """Plans the memory of a run; `auto` takes the mode that a machine has room for.

    Where both fit or none does it is the one of less work, as `run_memory` has it.
    Raises as it does.
    """
    memory = run_memory(config, inputs)
    fits = config.engine.mode != "auto" or memory.misfit(machine) is None
    # Where factored mode is less work it is also less memory.
    if fits or memory.mode.mode == "factored":
        return memory
    engine = config.engine.model_copy(update={"mode": "factored"})
    try:
        other = run_memory(config.model_copy(update={"engine": engine}), inputs)
    except BadInputError:  # individuals have no such form
        return memory
    if other.misfit(machine) is not None:
        return memory
    reason = "factored mode: materialised mode needs more memory than there is."
    return dataclasses.replace(other, mode=ModeChoice("factored", reason))


def run_memory(config: RunConfig, inputs: Inputs) -> RunMemory:
    """Plans the memory of a run; experts that are not here count as full fine-tunes.

    Raises:
      BadInputError: the settings do not go together (see `choose_mode`).
    """
    model = inputs.model.config
    shapes = model.weight_shapes()
    itemsize = jnp.dtype(config.dtype).itemsize
    weights = {
        name: jax.ShapeDtypeStruct(shape, jnp.dtype(config.dtype))
        for name, shape in shapes.items()
    }
    parameters = sum(math.prod(shape) for shape in shapes.values())
    diagonal = abstract_basis(
        shapes,
        [_expert_shape(expert, shapes) for expert in inputs.experts],
        config.basis.rank,
        residual=config.basis.residual,
        expert_names=config.tasks,
    )
    basis = abstract_core_basis(diagonal) if config.qd.needs_cores else diagonal
    noise = config.qd.has_noise
    mode = choose_mode(config.engine.mode, weights, basis, noise=noise)
    if config.engine.mode != "auto":
        auto = choose_mode("auto", weights, basis, noise=noise).reason
        mode = mode._replace(reason=f"{mode.reason} Auto would say {auto}")
    loaded = [
        parameters * itemsize if expert is None else expert.loaded_bytes
        for expert in inputs.experts
    ]
    engine = config.engine
    # What is left open has these sizes at least.
    slots = engine.prefill_rows if engine.slots == "auto" else engine.slots
    length = engine.prefill_chunk if engine.length == "auto" else engine.length
    return RunMemory(
        parameters=parameters,
        basis=basis,
        mode=mode,
        state=state_memory(config, basis.genome_size),
        weights=parameters * itemsize,
        basis_size=basis_bytes(basis),
        cache=cache_bytes(model, config.dtype) * slots * length,
        workspace=_workspace(config, shapes, basis, mode.mode, itemsize),
        call=_call(config, model, slots, length, itemsize),
        experts=sum(loaded),
        making=basis_bytes(diagonal),
        data=engine.mesh.data,
        tensor=engine.mesh.tensor,
    )


def state_memory(config: RunConfig, genome_size: int) -> MemoryPlan:
    """Plans archives and bank for genomes of so many coefficients."""
    noise = config.qd.has_noise
    return memory_plan(
        num_tasks=len(config.tasks),
        bins=config.qd.bins,
        genome_size=genome_size,
        num_generations=config.qd.num_generations,
        children_per_batch=config.qd.children_per_batch,
        noise_size=noise_length(config.qd.num_generations) if noise else 0,
    )


def check_run_memory(config: RunConfig) -> RunMemory | None:
    """Refuses a run that cannot fit, before anything large is loaded.

    Where weights are not here yet, nothing is refused.

    Returns:
      The plan; None where nothing could be planned.

    Raises:
      BadInputError: with the numbers, and what to change.
    """
    try:
        inputs = peek_inputs(config)
    except BadInputError:  # loading says it better
        return None
    if not inputs.are_here:
        return None
    machine = this_machine()
    memory = fitting_memory(config, inputs, machine)
    misfit = memory.misfit(machine)
    if misfit:
        raise BadInputError(misfit)
    return memory


def _expert_shape(
    expert: ExpertPeek | None, shapes: Mapping[str, tuple[int, ...]]
) -> ExpertShape:
    if expert is None or expert.adapter is None:
        return full_expert_shape(shapes)
    return expert_shape(LoraExpert(*expert.adapter), shapes)


def _call(
    config: RunConfig, model: ModelConfig, slots: int, length: int, itemsize: int
) -> int:
    """Bytes of the largest intermediate arrays of a prefill or decode call."""
    engine, heads = config.engine, model.num_attention_heads
    tokens = engine.prefill_rows * engine.prefill_chunk
    prefill = max(
        2 * tokens * model.intermediate_size * itemsize,
        tokens * heads * length * _FLOAT32,
    )
    decode = max(slots * model.vocab_size * _FLOAT32, slots * heads * length * _FLOAT32)
    return max(prefill, decode)


def _workspace(
    config: RunConfig,
    shapes: Mapping[str, tuple[int, ...]],
    basis: AnyBasis,
    mode: str,
    itemsize: int,
) -> int:
    """Bytes that evaluating takes beside weights, basis and cache."""
    directions = {slot.name: basis.v[slot.name].shape[1] for slot in basis.layout}
    if mode == "materialised":
        touched = [*directions, *basis.deltas]
        products = [
            shapes[name][0] * (count + shapes[name][1])
            for name, count in directions.items()
        ]
        individual = sum(math.prod(shapes[name]) for name in touched) * itemsize
        return individual + max(products, default=0) * _FLOAT32
    tables = config.qd.children_per_batch * (
        basis.genome_size + sum(math.prod(shapes[name]) for name in basis.deltas)
    )
    return tables * _FLOAT32
