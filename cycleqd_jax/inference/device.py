"""Weights, population and KV cache on the device, and the programs run on them."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from cycleqd_jax.inference import programs
from cycleqd_jax.inference.population import Population
from cycleqd_jax.inference.programs import ProgramKey
from cycleqd_jax.inference.relay import ALONE, Alone, Leader
from cycleqd_jax.inference.sampling import Likeliest
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.models import sharding
from cycleqd_jax.models.base import Cache, CausalLM, Weights


class Device:
    """The engine's arrays on a device, or on the devices of a mesh, and their programs.

    Attributes:
      population: the individuals, on the device.
      has_mesh: whether there is a mesh.
    """

    def __init__(
        self,
        program: CausalLM,
        stop_ids: tuple[int, ...],
        settings: EngineSettings,
        mesh: jax.sharding.Mesh | None = None,
        relay: Alone | Leader = ALONE,
    ):
        self.population = Population()
        self._relay = relay
        self._program = program
        self._stop_ids = stop_ids
        self._settings = settings
        self._mesh, self.has_mesh = mesh, mesh is not None
        self._cache_sharding = None
        if mesh is not None:
            sharding.check_sizes(
                mesh, slots=settings.slots, kv_heads=program.config.num_key_value_heads
            )
            self._cache_sharding = sharding.cache_sharding(mesh)
        self._empty_cache = functools.partial(
            program.empty_cache, settings.slots, settings.length
        )
        self._weights: Weights | None = None
        self._cache: Cache | None = None

    @property
    def cache_bytes(self) -> int:
        """Size of the whole cache, over all devices."""
        arrays = jax.tree.leaves(jax.eval_shape(self._empty_cache))
        return sum(array.size * array.dtype.itemsize for array in arrays)

    def load(self, weights: Weights, population: Population) -> None:
        """Puts weights and population on the device, sharded if there is a mesh."""
        if self._mesh is not None:
            weights = sharding.place_weights(weights, self._mesh)
        self._weights = weights
        self.replace(population)

    def replace(self, population: Population) -> None:
        """Replaces the population; the weights stay."""
        self.population = self.place(population)

    def place(self, population: Population) -> Population:
        """The population sharded over the mesh, directions in the model's dtype.

        Cast here, they are not cast in every step. Directions in that dtype that are in
        their place already are not copied.
        """
        dtype = self._program.dtype
        u, v = (
            {n: a if a.dtype == dtype else a.astype(dtype) for n, a in side.items()}
            for side in (population.u, population.v)
        )
        if self._mesh is None:
            return population.replace(u=u, v=v)
        u, v = sharding.place_directions(u, v, self._mesh)
        tables = (population.coefficients, population.vectors)
        coefficients, vectors = sharding.replicate(tables, self._mesh)
        return population.replace(u=u, v=v, coefficients=coefficients, vectors=vectors)

    def read_slot(self, slot: int, num_tokens: int) -> Cache:
        """Copies at least the first `num_tokens` tokens of a slot to the host."""
        spans = self._settings.eviction_spans
        span = next(span for span in spans if span >= num_tokens)
        return jax.device_get(
            self.run("read_slot", (np.array([slot], np.int32),), span)[0]
        )

    def write_slot(self, slot: int, part: Cache) -> None:
        """Copies the result of `read_slot` into a slot."""
        inputs = (part, np.array([slot], np.int32))
        self.run("write_slot", inputs, part.keys[0].shape[2])

    def run(
        self, program: str, inputs: tuple, span: int, **wanted: int
    ) -> Sequence[jax.Array | Likeliest | Cache | None]:
        """Runs a program on what is loaded, in all processes that share the mesh.

        Args:
          program: its name in `programs`.
          inputs: its arguments after weights, population and cache, on the host.
          span: how many tokens of each slot are read.
          **wanted: `samples`, `logprobs` and `top` of its `ProgramKey`.

        Returns:
          What it gives beside the cache.
        """
        key = ProgramKey(
            self._program, span, cache_sharding=self._cache_sharding, **wanted
        )
        with self._relay.telling("run", program, inputs, span, wanted):
            if program == "read_slot":
                return [programs.read_slot(self._cache, *inputs, key=key)]
            if program == "write_slot":
                cache = self._take_cache()
                self._cache = programs.write_slot(cache, *inputs, key=key)
                return []
            static = {}
            if program == "decode":
                static["steps"] = self._settings.decode_steps
                static["stop_ids"] = self._stop_ids
            *found, self._cache = getattr(programs, program)(
                self._weights,
                self.population,
                self._take_cache(),
                *inputs,
                key=key,
                **static,
            )
            return found

    def _take_cache(self) -> Cache:
        """Takes the cache out of this object, since the next call donates its buffers.

        Returns an empty cache at the first call and after a failed call. On a mesh it
        is created sharded: one device may not hold all of it.
        """
        cache, self._cache = self._cache, None
        if cache is not None:
            return cache
        if self._cache_sharding is None:
            return self._empty_cache()
        return jax.jit(self._empty_cache, out_shardings=self._cache_sharding)()
