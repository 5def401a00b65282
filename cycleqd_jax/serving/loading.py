"""Loads a run's base model and basis into an engine, for all of its individuals."""

import dataclasses

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.population import place_basis
from cycleqd_jax.merging.mode import dense_parts
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.models.sharding import put_on_device
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.engine_sizes import check_length, choose_slots_alone
from cycleqd_jax.runs.opened import OpenedRun
from cycleqd_jax.runs.setup import make_mesh, make_program
from cycleqd_jax.serving.desk import Desk
from cycleqd_jax.serving.settings import ServeEngine, ServeSettings

_LONGEST = 1024  # tokens of "auto"; a model's context may need more than the memory


def open_desk(opened: OpenedRun, settings: ServeSettings, observer: Observer) -> Desk:
    """The engine for a run's individuals.

    Individuals share passes wherever they have a factored form, also where the run's
    own choice, made for speed alone, was another.

    Raises:
      BadInputError: the base model or the basis cannot be read, or the sizes do not
        fit.
    """
    config = opened.config
    observer.phase("loading the base model")
    try:
        base = opened.load_base()
    except BadInputError as err:
        text = f"{str(err).rstrip('.')}; --base-model says where it is on this machine."
        raise BadInputError(text) from err
    engine = _sized(settings.engine, base.config, config.dtype)
    mesh = make_mesh(engine.mesh)
    program = make_program(base.config, config.dtype, engine)
    observer.phase("loading the basis")
    dense = dense_parts(opened.basis, noise=config.noise is not None)
    factored = not dense and engine.mode != "materialised"
    if not factored:
        reason = f", since {dense[0]}" if dense else ""
        observer.note(f"individuals answer one after the other{reason}")
    loader = IndividualLoader(
        engine=Engine(program, base.tokenizer, engine, mesh=mesh),
        weights=put_on_device(base.weights, mesh),
        basis=place_basis(opened.basis, mesh),
        mode="factored" if factored else "materialised",
        individuals_per_pass=engine.slots,
        noise=config.noise,
        whole=dataclasses.replace(opened.whole_models(base), mesh=mesh),
        one_form=True,
    )
    return Desk(loader, settings.max_waiting)


def _sized(settings: ServeEngine, model: ModelConfig, dtype: str) -> ServeEngine:
    """The settings with numbers for what is "auto"."""
    if settings.length == "auto":
        chunk = settings.prefill_chunk
        longest = min(model.max_position_embeddings, _LONGEST)
        length = max(longest // chunk, 1) * chunk
        settings = settings.model_copy(update={"length": length})
    check_length(settings, model)
    return choose_slots_alone(settings, model, dtype)
