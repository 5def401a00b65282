"""The memory that a run needs, and whether a machine has it.

Sizes follow from shapes, so they are known before anything large is loaded. Only what
a run certainly holds at one time is counted, with its bank at its largest.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.mode import ModeChoice, choose_mode
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.runs.device_memory import BASIS, CACHE, CALL, device_memory, tree_bytes
from cycleqd_jax.runs.state_memory import StateMemory, state_memory
from cycleqd_jax.search.registry import search_class

_CGROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)
_LOADED, _READING = "the base weights as loaded", "a weight that is read"
_SEARCHED = "the basis for the search"
_STATE, _CHECKPOINT = "archives and bank", "a copy of them for the checkpoint"
# The parts that a change of settings makes smaller.
IMAGES_CALL = "the images of a call"
_CHANGES = {
    "a lower images.per_call": (IMAGES_CALL,),
    "fewer engine.slots or a shorter engine.length": (CACHE, CALL),
    "a lower basis.rank": (BASIS, "factored mode"),
    "fewer qd.bins": (_STATE, _CHECKPOINT),
}


class Machine(NamedTuple):
    """Memory of a machine in bytes.

    Attributes:
      host_bytes: of the machine, or of the container that this process is in.
      device_bytes: of one accelerator; None if the host's memory is the device's.
    """

    host_bytes: int
    device_bytes: int | None


def this_machine() -> Machine:
    """The memory of the machine that this process runs on."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in map(pathlib.Path, _CGROUP_LIMITS):
        if path.is_file() and (text := path.read_text().strip()).isdecimal():
            host = min(host, int(text))
    stats = jax.local_devices()[0].memory_stats() or {}
    return Machine(host, stats.get("bytes_limit"))


def size_text(size: float) -> str:
    """A number of bytes for readers, like "8.75 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB" if size < 999.5 else f"{size:,.0f} TB"


@dataclasses.dataclass(frozen=True)
class RunMemory:
    """The memory of a run while it evaluates individuals; sizes in bytes.

    Attributes:
      parameters: number of parameters of the base model.
      basis: of the experts, or its shapes.
      mode: how individuals are evaluated, and why.
      state: archives and bank.
      device: purpose -> size on each device.
      host: purpose -> size on the host.
      devices: number of devices.
    """

    parameters: int
    basis: Basis
    mode: ModeChoice
    state: StateMemory
    device: Mapping[str, int]
    host: Mapping[str, int]
    devices: int

    def room(self, machine: Machine) -> int:
        """The room left for keys and values on all devices; may be negative."""
        used = sum(self.device.values()) - self.device[CACHE]
        if machine.device_bytes is None:
            return machine.host_bytes - used - sum(self.host.values())
        return (machine.device_bytes - used) * self.devices

    def misfit(self, machine: Machine) -> str | None:
        """Names in one sentence what the machine lacks; None if it suffices."""
        if machine.device_bytes is None:
            needs = [("this machine", self.device | self.host, machine.host_bytes)]
        else:
            needs = [
                ("this machine", self.host, machine.host_bytes),
                ("the accelerator", self.device, machine.device_bytes),
            ]
        place, parts, has = max(needs, key=lambda n: sum(n[1].values()) / n[2])
        if sum(parts.values()) <= has:
            return None
        listed = ", ".join(f"{name} {size_text(n)}" for name, n in parts.items())
        return (
            f"memory: the run needs {size_text(sum(parts.values()))} ({listed}), but "
            f"{place} has {size_text(has)}; choose "
            f"{_advice((parts, has) for _, parts, has in needs)}, or a machine with "
            "more."
        )

    def check(self, machine: Machine) -> None:
        """Raises `BadInputError` with the sentence of `misfit` if there is one."""
        if misfit := self.misfit(machine):
            raise BadInputError(misfit)


def _advice(needs: Iterable[tuple[Mapping[str, int], int]]) -> str:
    """The fewest changes that can save enough.

    Args:
      needs: sizes by purpose, and what there is for all of them.
    """
    advice: list[str] = []
    for parts, has in needs:
        excess = sum(parts.values()) - has
        savings = {
            change: sum(parts.get(name, 0) for name in names)
            for change, names in _CHANGES.items()
        }
        for change in sorted(savings, key=savings.__getitem__, reverse=True):
            if excess > 0:
                advice.append(change)
                excess -= savings[change]
        if excess > 0:
            return "a smaller base_model"
    return " and ".join(dict.fromkeys(advice))


def plan_memory(
    config: RunConfig, model: ModelConfig, basis: Basis, machine: Machine
) -> RunMemory:
    """The memory of a run.

    Mode "auto" takes factored mode, against `choose_mode`, if the machine has too
    little memory for materialised mode only.

    Args:
      config: the settings; slots or a length that are "auto" count with the least that
        the engine can have.
      model: sizes of the base model.
      basis: of the experts, or its shapes.
      machine: where it is to run.

    Raises:
      BadInputError: the mode does not go with the genomes, or there are too many cells.
    """
    dtype = jnp.dtype(config.dtype)
    shapes = model.weight_shapes()
    weights = {n: jax.ShapeDtypeStruct(shape, dtype) for n, shape in shapes.items()}
    noise = config.noise is not None
    mode = choose_mode(config.engine.mode, weights, basis, noise=noise)
    memory = _run_memory(config, model, basis, mode, weights)
    factored = mode.mode == "factored" or config.engine.mode != "auto"
    if factored or memory.misfit(machine) is None:
        return memory
    try:
        choose_mode("factored", weights, basis, noise=noise)
    except BadInputError:  # these genomes have no factored form
        return memory
    reason = "factored mode: materialised mode needs more memory than there is."
    mode = ModeChoice("factored", reason)
    other = _run_memory(config, model, basis, mode, weights)
    return memory if other.misfit(machine) else other


def _run_memory(
    config: RunConfig,
    model: ModelConfig,
    basis: Basis,
    mode: ModeChoice,
    weights: Mapping[str, jax.ShapeDtypeStruct],
) -> RunMemory:
    engine, state = config.engine, state_memory(config, basis)
    device = device_memory(
        model,
        basis,
        engine,
        mode=mode.mode,
        dtype=config.dtype,
        individuals=config.qd.children_per_batch,
    )
    if search_class(config.search).uses_gradients(config.qd, config.search_settings):
        from cycleqd_jax.inference.gradients import gradient_bytes

        device[f"{mode.mode} mode"] += gradient_bytes(
            model,
            basis,
            itemsize=jnp.dtype(config.dtype).itemsize,
            num_genomes=config.qd.children_per_batch,
            num_tokens=engine.prefill_rows * engine.prefill_chunk,
        )
    return RunMemory(
        parameters=sum(math.prod(w.shape) for w in weights.values()),
        basis=basis,
        mode=mode,
        state=state,
        device=device,
        host=host_memory(config.base_model, weights, state)
        # Beside the one on a mesh that other processes share.
        | ({_SEARCHED: tree_bytes(basis)} if jax.process_count() > 1 else {}),
        devices=engine.mesh.data * engine.mesh.tensor,
    )


def host_memory(
    source: str, weights: Mapping[str, jax.ShapeDtypeStruct], state: StateMemory
) -> dict[str, int]:
    """Bytes on the host by purpose: the base model, and the search's state twice."""
    return _loading(source, weights) | {
        _STATE: state.total_bytes,
        _CHECKPOINT: state.total_bytes,
    }


def _loading(
    source: str, weights: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, int]:
    """The host's share of the base model: a GGUF file is read whole."""
    if source.lower().endswith(".gguf"):
        return {_LOADED: tree_bytes(weights)}
    # A task vector needs the base's and the expert's.
    return {_READING: 2 * max(map(tree_bytes, weights.values()))}
