"""Experts and their basis on a mesh of eight devices; run by `test_trained_experts`.

Prints one JSON object: where arrays are, and how far they are from those of one device.
"""

import json
import sys
import types

import jax
import numpy as np

from cycleqd_jax.evaluation import whole
from cycleqd_jax.inference.population import empty_population, place_basis
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.genome import scaled_sum
from cycleqd_jax.merging.individuals import TrainedExpert
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.models import sharding
from cycleqd_jax.models.experts import FullExpert
from cycleqd_jax.models.llama.config import LlamaConfig

CONFIG = LlamaConfig(
    vocab_size=160,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=8,
    tie_word_embeddings=True,
)


def addresses(array):
    return [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]


def furthest(got, want):
    """The largest difference of any weight, relative to its largest value."""
    assert got.keys() == want.keys()
    return max(
        float(np.abs(np.asarray(got[n]) - want[n]).max() / np.abs(want[n]).max())
        for n in want
    )


def main():
    rng = np.random.default_rng(0)
    shapes = CONFIG.weight_shapes()
    base = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    tuned = {n: w + 0.1 * rng.standard_normal(w.shape).astype(np.float32)
             for n, w in base.items()}  # fmt: skip
    expert = FullExpert(tuned)
    mesh = sharding.make_mesh(2, 4)
    basis = compute_basis(base, [expert], BasisSettings(rank=2), expert_names=["only"])
    whole.load_expert = lambda path, model: expert
    loader = whole.WholeModels(
        types.SimpleNamespace(weights=base), {"only": "somewhere"}, mesh
    )
    trained = loader.weights(TrainedExpert("only"))
    out = {
        "devices": [len(w.sharding.device_set) for w in trained.values()],
        "shares": {
            name: [shard.data.nbytes * 4 == w.nbytes for shard in w.addressable_shards]
            for name, w in trained.items()
            if "q_proj" in name or "embed" in name
        },
        "trained": furthest(trained, tuned),
        "materialised": {},
    }
    for residual in ("drop", "keep"):
        settings = BasisSettings(rank=2, residual=residual)
        basis = compute_basis(base, [expert], settings)
        placed = place_basis(basis, mesh)
        genome = scaled_sum(basis, 0.7)
        want = jax.device_get(materialise(base, basis, genome))
        got = materialise(sharding.put_on_device(base, mesh), placed, genome)
        out["materialised"][residual] = furthest(got, want)
    population = empty_population(placed, 2)
    u, v = sharding.place_directions(population.u, population.v, mesh)  # as the engine
    out["copied"] = [
        name
        for name in placed.u
        if addresses(u[name]) != addresses(placed.u[name])
        or addresses(v[name]) != addresses(placed.v[name])
    ]
    out["whole"] = [n for n, side in placed.u.items() if side.is_fully_replicated]
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
