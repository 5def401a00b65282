"""The arguments of a run's programs as shapes, placed as a run places the arrays."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from cycleqd_jax.inference.population import Population, empty_population
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.merging.forms import DiagonalBasis, basis_shapes
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.models import sharding
from cycleqd_jax.models.attention import choose_attention
from cycleqd_jax.models.base import Cache, CausalLM, ModelConfig
from cycleqd_jax.models.families import make_program

Shape = jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True)
class AbstractRun:
    """A run of which only the shapes exist.

    Attributes:
      program: the model.
      engine: sizes of its engine, with the mesh.
      individuals: that share a pass in factored mode.
      basis: settings of the basis, of three experts that change everything.
      devices: what it is placed on; one for each place of the mesh.
    """

    program: CausalLM
    engine: EngineSettings
    individuals: int
    basis: BasisSettings
    devices: tuple[jax.Device, ...]

    @property
    def mesh(self) -> Mesh | None:
        """None on one device, as in a run."""
        axes = (self.engine.mesh.data, self.engine.mesh.tensor)
        if len(self.devices) == 1:
            return None
        return Mesh(np.asarray(self.devices).reshape(axes), sharding.AXES)

    @property
    def shares_directions(self) -> bool:
        """True if the engine uses the directions of the basis, not a cast copy."""
        dtypes = {u.dtype for u in self.placed_basis().u.values()}
        return dtypes == {self.program.dtype}

    def place(self, shape: Shape, partition: PartitionSpec | None = None) -> Shape:
        """A shape on the devices, divided by `partition`; None is a copy on each."""
        where = SingleDeviceSharding(self.devices[0])
        if self.mesh is not None:
            where = NamedSharding(self.mesh, partition or PartitionSpec())
        return Shape(shape.shape, shape.dtype, sharding=where)

    def weights(self) -> dict[str, Shape]:
        """As `sharding.put_on_device` places them."""
        return {
            name: self.place(
                Shape(shape, self.program.dtype), sharding.weight_spec(name)
            )
            for name, shape in self.program.config.weight_shapes().items()
        }

    def placed_basis(self) -> DiagonalBasis:
        """As `population.place_basis` places it."""
        basis = basis_shapes(
            self.program.config.weight_shapes(),
            [None] * 3,
            self.basis,
            expert_names=("a", "b", "c"),
        )
        return jax.tree.map(self.place, basis).replace(
            u=self._directions(basis.u, 0), v=self._directions(basis.v, 1)
        )

    def population(self) -> Population:
        """As the engine places it."""
        basis = self.placed_basis()
        empty = jax.eval_shape(lambda b: empty_population(b, self.individuals), basis)
        u, v = (
            {
                n: Shape(a.shape, self.program.dtype, sharding=a.sharding)
                for n, a in side.items()
            }
            for side in (basis.u, basis.v)
        )
        return jax.tree.map(self.place, empty).replace(u=u, v=v)

    def cache(self) -> Cache:
        """All slots of the engine."""
        engine = self.engine
        shapes = jax.eval_shape(
            lambda: self.program.empty_cache(engine.slots, engine.length)
        )
        partition = sharding.cache_spec()
        return jax.tree.map(lambda a: self.place(a, partition), shapes)

    def _directions(self, sides: Mapping[str, Shape], side: int) -> dict[str, Shape]:
        return {
            name: self.place(a, PartitionSpec(sharding.weight_spec(name)[side], None))
            for name, a in sides.items()
        }


def make_run(
    config: ModelConfig,
    dtype: str,
    engine: EngineSettings,
    devices: tuple[jax.Device, ...],
    *,
    individuals: int,
    rank: int | str,
) -> AbstractRun:
    """A run with the attention that the settings choose for these devices.

    Raises:
      BadInputError: the devices cannot use it.
    """
    attention = choose_attention(
        engine.attention,
        head_dim=config.head_dim,
        dtype=jnp.dtype(dtype),
        devices=len(devices),
        platform=devices[0].platform,
    )
    program = make_program(config, dtype, attention=attention)
    return AbstractRun(program, engine, individuals, BasisSettings(rank=rank), devices)


def device_bytes(tree: Any) -> int:
    """The size of the part of all placed shapes that lies on one device."""
    return sum(
        int(np.prod(a.sharding.shard_shape(a.shape))) * a.dtype.itemsize
        for a in jax.tree.leaves(tree)
    )
