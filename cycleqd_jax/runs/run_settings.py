"""From the sections of a config to the settings that the parts of a run take."""

from cycleqd_jax.config import RunConfig
from cycleqd_jax.config_sections import EngineConfig, QDConfig
from cycleqd_jax.inference.engine import EngineShape
from cycleqd_jax.merging.noise import NoiseSource
from cycleqd_jax.qd.settings import ProposeSettings
from cycleqd_jax.runs.loop import CycleSettings


def engine_shape(engine: EngineConfig) -> EngineShape:
    """The engine's static sizes from its settings, in which none is "auto"."""
    return EngineShape(
        slots=engine.slots,
        length=engine.length,
        prefill_rows=engine.prefill_rows,
        prefill_chunk=engine.prefill_chunk,
        decode_steps=engine.decode_steps,
        deterministic=engine.deterministic,
    )


def cycle_settings(config: RunConfig) -> CycleSettings:
    """The search settings in the form the loop takes."""
    return CycleSettings(
        seed=config.seed,
        num_generations=config.qd.num_generations,
        children_per_batch=config.qd.children_per_batch,
        propose=propose_settings(config.qd),
    )


def propose_settings(qd: QDConfig) -> ProposeSettings:
    """The settings of the operators in the form that proposing takes."""
    return ProposeSettings(
        flip_interval=qd.flip_interval,
        selection=qd.selection,
        alpha_low=qd.alpha_low,
        alpha_high=qd.alpha_high,
        crossover=qd.crossover,
        crossover_mean=qd.crossover_mean,
        crossover_std=qd.crossover_std,
        mutation=qd.mutation,
        w_max=qd.w_max,
    )


def noise_source(config: RunConfig) -> NoiseSource | None:
    """Where the Gaussian noise of a run's genomes comes from; None without any."""
    if not propose_settings(config.qd).has_noise:
        return None
    return NoiseSource(config.seed, config.qd.gaussian_std)
