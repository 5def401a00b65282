"""The processes of a run load the same model: what process 0 sends, what they check.

Each host reads the base model itself, of every weight only the rows that its devices
hold; the basis comes from process 0.
"""

import json
import socket
from collections.abc import Callable, Mapping
from multiprocessing import connection
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import cycleqd_jax
from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.whole import WholeModels
from cycleqd_jax.inference.relay import LEADER, say_ready
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.models import sharding
from cycleqd_jax.models.experts import sampled
from cycleqd_jax.models.loading import LoadedModel, load_expert, load_model
from cycleqd_jax.runs.engines import make_loader, make_mesh
from cycleqd_jax.runs.setup import Prepared


def lead(config: RunConfig, prepared: Prepared) -> Basis:
    """Lets the other processes load the model, and places the basis in all of them.

    Args:
      config: the settings.
      prepared: by process 0, with the basis on its host.

    Returns:
      The basis on the mesh, for the engine.

    Raises:
      BadInputError: an input of a host is missing, damaged or another one.
    """
    leader, basis = prepared.relay, prepared.basis
    experts = config.name_experts(prepared.task_names)
    bare = basis.replace(u={}, v={}, deltas={}, residuals={})
    facts = {
        "config": config.model_dump(mode="json"),
        "engine": prepared.engine.model_dump(mode="json"),
        "mode": prepared.mode.mode,
        "experts": experts,
        "inputs": _inputs(prepared.model, experts),
        "basis": jax.device_get(bare),
    }
    with leader.telling("prepare", facts):
        leader.wait()
    groups = {}
    for group in ("u", "v", "deltas", "residuals"):
        arrays = getattr(basis, group)
        groups[group] = {n: _send(prepared, group, n, arrays[n]) for n in arrays}
    with leader.telling("open"):
        leader.wait()
    return basis.replace(**groups)


def _send(prepared: Prepared, group: str, name: str, array: Any) -> jax.Array:
    """Gives every process the parts of an array of the basis that its devices hold."""
    host, mesh = np.asarray(array), prepared.mesh
    place = _placed(group, name, mesh)
    where = place.devices_indices_map(host.shape)
    for index in prepared.relay.indices:
        own = [at for device, at in where.items() if device.process_index == index]
        parts = {str(at): np.ascontiguousarray(host[at]) for at in own}
        prepared.relay.send(index, "array", group, name, host.shape, parts)
    return sharding.put(host, place)


def _placed(group: str, name: str, mesh: jax.sharding.Mesh) -> NamedSharding:
    if group in ("u", "v"):
        return sharding.direction_sharding(name, ("u", "v").index(group), mesh)
    if group == "residuals":
        partition = PartitionSpec(None, *sharding.weight_spec(name))
        return NamedSharding(mesh, partition)
    return NamedSharding(mesh, PartitionSpec())


def _inputs(model: LoadedModel, experts: Mapping[str, str]) -> dict[str, str]:
    """Facts that must be equal on all hosts; large files are only sampled."""
    versions = {"jax": jax.__version__, "cycleqd_jax": cycleqd_jax.__version__}
    base = [sampled(model.weights), model.config.to_hf(), model.tokenizer.fingerprint]
    found = {"versions": json.dumps(versions), "base model": json.dumps(base)}
    for name, path in experts.items():
        expert = load_expert(path, model)
        found[f"expert {name}"] = expert.sample
    return found


class Follower:
    """Makes the calls that process 0 tells of."""

    def __init__(self, leader: connection.Connection):
        self._leader = leader
        self._facts: Mapping[str, Any] = {}
        self._groups: dict[str, dict[str, jax.Array]] = {}
        self._functions = {f.__name__: f for f in (self.prepare, self.array, self.open)}

    def function(self, call: str) -> Callable[..., None]:
        """The function of a call."""
        return self._functions[call]

    def prepare(self, facts: Mapping[str, Any]) -> None:
        """Loads this host's part of the base model."""
        self._facts = facts
        self._config = config = RunConfig.model_validate(facts["config"])
        self._mesh = make_mesh(config.engine.mesh)
        self._model = model = load_model(
            config.base_model,
            dtype=config.dtype,
            date=config.date,
            read=False,
            experts=tuple(facts["experts"].values()),
            vocabulary=config.vocabulary,
        )
        ours = _inputs(model, facts["experts"])
        for name, theirs in facts["inputs"].items():
            if ours[name] != theirs:
                raise BadInputError(
                    f"{name} on {socket.gethostname()} is another than on the host of "
                    f"{LEADER}; give all hosts the same files and versions."
                )
        self._weights = sharding.put_on_device(model.weights, self._mesh)
        say_ready(self._leader)

    def array(
        self, group: str, name: str, shape: tuple[int, ...], parts: Mapping[str, Any]
    ) -> None:
        """Places the parts of an array of the basis."""
        self._groups.setdefault(group, {})[name] = jax.make_array_from_callback(
            shape, _placed(group, name, self._mesh), lambda at: parts[str(at)]
        )

    def open(self) -> None:
        """Makes the engine, which the next calls are of."""
        config, facts = self._config, self._facts
        loader = make_loader(
            WholeModels(self._model, facts["experts"], self._mesh),
            EngineSettings.model_validate(facts["engine"]),
            weights=self._weights,
            basis=facts["basis"].replace(**self._groups),
            mode=facts["mode"],
            individuals_per_pass=config.qd.children_per_batch,
            noise=config.noise,
        )
        self._functions |= {
            "share": loader.share,
            "set_row": loader.set_row,
            "load_alone": loader.load_alone,
            "run": loader.engine.run,
        }
        say_ready(self._leader)
