"""Engines: their devices, their programs, and what loads individuals into them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.evaluation.whole import WholeModels
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.population import place_basis
from cycleqd_jax.inference.relay import ALONE, Alone, Leader
from cycleqd_jax.inference.settings import EngineSettings, MeshSettings
from cycleqd_jax.merging.mode import choose_mode
from cycleqd_jax.models import families, sharding
from cycleqd_jax.models.attention import choose_attention
from cycleqd_jax.models.base import CausalLM, ModelConfig
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.runs.engine_sizes import choose_slots_alone
from cycleqd_jax.runs.opened import OpenedRun


def make_mesh(settings: MeshSettings) -> jax.sharding.Mesh | None:
    """The mesh of the settings, None for one device.

    Raises:
      BadInputError: there are fewer devices.
    """
    if settings.data * settings.tensor == 1:
        return None
    return sharding.make_mesh(settings.data, settings.tensor)


def make_program(config: ModelConfig, dtype: str, engine: EngineSettings) -> CausalLM:
    """The model as functions, with the attention that the engine's settings ask for.

    Raises:
      BadInputError: it cannot run here.
    """
    attention = choose_attention(
        engine.attention,
        head_dim=config.head_dim,
        dtype=jnp.dtype(dtype),
        devices=engine.mesh.data * engine.mesh.tensor,
    )
    return families.make_program(config, dtype, attention=attention)


def make_loader(
    whole: WholeModels,
    engine: EngineSettings,
    *,
    tokenizer: ChatTokenizer | None = None,
    relay: Alone | Leader = ALONE,
    **parts: Any,
) -> IndividualLoader:
    """An engine for a model, and what loads individuals of it into the engine.

    Args:
      whole: the model on the host, its experts, and the mesh of the engine's settings.
      engine: its settings, with numbers.
      tokenizer: None takes the model's.
      relay: to the other processes that share the mesh.
      parts: all else that an `IndividualLoader` has; arrays are on the mesh.

    Raises:
      BadInputError: the model cannot run here.
    """
    base = whole.base
    program = make_program(base.config, base.dtype, engine)
    tokenizer = tokenizer or base.tokenizer
    made = Engine(program, tokenizer, engine, mesh=whole.mesh, relay=relay)
    return IndividualLoader(made, whole=whole, **parts)


def make_loader_alone(
    whole: WholeModels,
    engine: EngineSettings,
    *,
    run: OpenedRun | None = None,
    note: Callable[[str], None] | None = None,
    **parts: Any,
) -> IndividualLoader:
    """As `make_loader`, for an engine that shares its memory with no search.

    Args:
      whole: the model on the host, and its experts.
      engine: its settings, with a number for the length.
      run: whose basis and noise genomes refer to; None where there are no genomes.
      note: hears in which mode genomes are evaluated, and why.
      parts: all else that `make_loader` takes.

    Raises:
      BadInputError: the model, or the mode that was asked for, cannot run here.
    """
    engine = choose_slots_alone(engine, whole.base.config, whole.base.dtype)
    whole = dataclasses.replace(whole, mesh=make_mesh(engine.mesh))
    weights = sharding.put_on_device(whole.base.weights, whole.mesh)
    if run is not None:
        basis, noise = place_basis(run.basis, whole.mesh), run.config.noise
        chosen = choose_mode(engine.mode, weights, basis, noise=noise is not None)
        if note is not None:
            note(chosen.reason)
        parts |= {"basis": basis, "noise": noise, "mode": chosen.mode}
    return make_loader(whole, engine, weights=weights, **parts)
