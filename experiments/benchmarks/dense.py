"""A child as dense PyTorch tensors: what a search over whole models does per child.

Two parents are read from safetensors, merged, mutated along precomputed singular
vectors and copied into a model, all on the CPU.

Source: SakanaAI/CycleQD, re-derived; without its waits, its queue and the writing of
children that are kept. There only the mutation is on a GPU.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from cycleqd_jax.merging.forms import DiagonalBasis

Tensors = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class DenseWorld:
    """The arrays that exist before a child is made.

    Attributes:
      base: the base model.
      parents: files of whole models.
      directions: matrix -> one expert's `U [out, r]`, `s [r]`, `V [in, r]`.
      model: what runs; a child is copied into it.
    """

    base: Tensors
    parents: tuple[pathlib.Path, pathlib.Path]
    directions: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    model: Tensors


def make_world(
    weights: Mapping[str, np.ndarray],
    parents: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]],
    basis: DiagonalBasis,
    folder: pathlib.Path,
    *,
    dtype: torch.dtype,
    full_rank: bool,
    expert: int = 0,
) -> DenseWorld:
    """Writes the parents and takes the directions of one expert from a basis.

    Args:
      weights: of the base model.
      parents: two sets of whole weights.
      basis: of the experts.
      folder: gets the parents' files.
      dtype: of everything.
      full_rank: fill the directions up to full rank with singular values of 0, and
        mutate matrices that the basis leaves alone too, as stored SVDs of dense models
        do.
      expert: whose directions.
    """

    def tensors(arrays: Mapping[str, np.ndarray]) -> Tensors:
        return {n: torch.from_numpy(np.array(a)).to(dtype) for n, a in arrays.items()}

    paths = []
    for index, parent in enumerate(parents):
        paths.append(folder / f"parent-{index}-{str(dtype).rpartition('.')[2]}")
        save_file(tensors(parent), paths[-1])
    base, rng, directions = tensors(weights), np.random.default_rng(0), {}
    values = np.asarray(basis.singular_values)
    slots = {slot.name: slot for slot in basis.layout}
    for name, weight in weights.items():
        if weight.ndim != 2 or not (full_rank or name in slots):
            continue
        u, s, v = (
            np.zeros((n, 0), np.float32) for n in (weight.shape[0], 1, weight.shape[1])
        )
        s = s.ravel()
        if name in slots:
            slot = slots[name]
            own = slot.offset + expert * slot.rank
            s = values[own : own + slot.rank]
            u = np.asarray(basis.u[name])[:, slot.columns(expert)]
            v = np.asarray(basis.v[name])[:, slot.columns(expert)]
        if full_rank:
            more = min(weight.shape) - s.size
            u = np.hstack([u, rng.standard_normal((weight.shape[0], more), np.float32)])
            v = np.hstack([v, rng.standard_normal((weight.shape[1], more), np.float32)])
            s = np.pad(s, (0, more))
        directions[name] = tuple(
            torch.from_numpy(np.array(a)).to(dtype) for a in (u, s, v)
        )
    model = {name: torch.zeros_like(tensor) for name, tensor in base.items()}
    return DenseWorld(base, tuple(paths), directions, model)


@torch.inference_mode()
def make_child(
    world: DenseWorld, *, std: float, w_max: float, draws: torch.Generator
) -> Tensors:
    """One child, from the parents' files into the model.

    Args:
      world: what is there.
      std: of the crossover weights, whose mean is 1.
      w_max: the largest mutation step.
      draws: where randomness comes from.

    Returns:
      The model.
    """
    base = world.base
    weights = torch.normal(1.0, std, size=(2,), generator=draws).tolist()
    parents = [load_file(path) for path in world.parents]
    changes = [{name: p[name] - base[name] for name in base} for p in parents]
    for name in base:
        merged = torch.zeros_like(base[name])
        for weight, change in zip(weights, changes, strict=True):
            merged += weight * change[name]
        child = base[name] + merged / sum(weights)
        if name in world.directions:
            u, s, v = world.directions[name]
            steps = torch.rand(s.shape, generator=draws).to(s.dtype) * w_max
            child += u @ torch.diag(steps * s) @ v.T
        world.model[name].copy_(child)
    return world.model
