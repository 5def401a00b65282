"""What one of two processes reads and holds of stored weights; run by `test_pods`.

    python pod_reads.py FOLDER

prints as JSON the rows that were read of each matrix, and what the mesh says of them.
"""

import json
import os
import sys

import jax
import numpy as np

from cycleqd_jax.config import RunConfig
from cycleqd_jax.models import sharding
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.reports import console
from cycleqd_jax.runs import pods


def main(folder):
    settings = {
        "base_model": "x",
        "tasks": ["pocket_db", "pocket_os"],
        "experts": {"pocket_db": "x", "pocket_os": "x"},
    }
    config = RunConfig.model_validate(settings)
    with pods.joined(config, os.environ, console.end_at_once) as pod:
        weights, read = safetensors.open_folder(folder), {}
        real = weights.part

        def part(name, index):
            got = real(name, index)
            read[name] = read.get(name, 0) + got.size
            return got

        weights.part = part
        mesh = sharding.make_mesh(tensor=2)
        placed = sharding.place_weights(weights, mesh)
        host = np.arange(6.0)
        everywhere = sharding.replicate({"a": host}, mesh)["a"]
        whole = jax.jit(
            lambda w: sum(x.astype("float32").sum() for x in w.values()),
            out_shardings=everywhere.sharding,
        )
        facts = {
            "follows": pod.follows,
            "read": read,
            "sizes": {name: array.size for name, array in placed.items()},
            "sum": float(whole(placed)),
            "everywhere": np.asarray(everywhere).tolist(),
        }
        try:
            sharding.make_mesh(tensor=1)
        except ValueError as err:
            facts["refused"] = str(err)
        print(json.dumps(facts))
        if pod.follows:
            pod.follow(lambda text: None)


if __name__ == "__main__":
    main(sys.argv[1])
