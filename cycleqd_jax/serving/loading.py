"""Loads a run's base model and basis into an engine, for all of its individuals."""

from cycleqd_jax.merging.mode import dense_parts
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.engine_sizes import check_length, choose_slots_alone
from cycleqd_jax.runs.engines import make_loader_alone
from cycleqd_jax.runs.opened import OpenedRun
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
    base = opened.load_base(advice="--base-model says where it is on this machine")
    engine = _sized(settings.engine, base.config, config.dtype)
    observer.phase("loading the basis")
    dense = dense_parts(opened.basis, noise=config.noise is not None)
    factored = not dense and engine.mode != "materialised"
    if not factored:
        reason = f", since {dense[0]}" if dense else ""
        observer.note(f"individuals answer one after the other{reason}")
    mode = "factored" if factored else "materialised"
    loader = make_loader_alone(
        opened.whole_models(base),
        engine.model_copy(update={"mode": mode}),
        run=opened,
        individuals_per_pass=engine.slots,
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
