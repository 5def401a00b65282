"""Places stored weights and a stored basis on 2 x 4 devices; prints what was read."""

import json
import pathlib
import tempfile

import jax
import numpy as np

from cycleqd_jax.inference.population import basis_placement
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.basis_store import load_basis, save_basis
from cycleqd_jax.models import sharding
from cycleqd_jax.models.experts import FullExpert
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.formats.tensor_file import TensorFile

rng = np.random.default_rng(0)
shapes = {
    "model.layers.0.mlp.down_proj.weight": (8, 16),  # divided by columns
    "model.layers.0.mlp.up_proj.weight": (16, 8),  # divided by rows
    "model.norm.weight": (8,),  # replicated
}
arrays = {
    name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()
}
mesh = sharding.make_mesh(2, 4)
reads = []
rows = TensorFile.rows


def noted(self, name, first, last):
    reads.append([name, first, last])
    return rows(self, name, first, last)


TensorFile.rows = noted
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / safetensors.WEIGHTS
    safetensors.write_file(path, arrays)
    stored = safetensors.open_folder(folder)
    placed = sharding.place_weights(stored, mesh)
    tuned = {n: a + rng.standard_normal(a.shape, np.float32) for n, a in arrays.items()}
    basis = compute_basis(arrays, [FullExpert(tuned)])
    file = pathlib.Path(folder) / "basis"
    save_basis(file, basis, fingerprint="f")
    loaded = load_basis(file, basis_placement(mesh)).basis

equal = all(np.array_equal(placed[n], arrays[n]) for n in shapes)
leaves = zip(jax.tree.leaves(loaded), jax.tree.leaves(basis), strict=True)
equal_basis = all(np.array_equal(a, b) for a, b in leaves)
up = "model.layers.0.mlp.up_proj.weight"
print(
    json.dumps(
        {
            "equal": equal,
            "equal_basis": equal_basis,
            "reads": sorted(reads),
            "shards": {n: list(a.addressable_shards[0].data.shape)
                       for n, a in placed.items()},
            "u": list(loaded.u[up].addressable_shards[0].data.shape),
            "v": list(loaded.v[up].addressable_shards[0].data.shape),
        }
    )
)  # fmt: skip
