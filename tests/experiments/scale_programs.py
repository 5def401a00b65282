"""Compiles all programs on meshes of eight devices; run by `test_scale_check`.

Reads the topology from standard input, None for simulated CPU devices. Prints one JSON
object: what each program gathers and moves.
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from cycleqd_jax.inference.settings import EngineSettings, MeshSettings
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.runs.device_memory import device_memory
from experiments.scale import chips, programs
from experiments.scale.abstract import Shape, make_run
from experiments.scale.measure import measure, read

# On a TPU as large as it takes for weights to be more than what a step computes.
SIZES = {
    "cpu": {"hidden_size": 512, "intermediate_size": 1024, "vocab_size": 8 * 1001},
    "tpu": {"hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256},
}
SHAPE = EngineSettings(
    slots=16, length=256, prefill_rows=2, prefill_chunk=16, decode_steps=8
)
LIMITS = chips.TPUS["v5e"]


def figures(row):
    gathers = (row.figures.collectives.get(op) for op in ("all-gather", "all-to-all"))
    return {
        "gathered": max((kind["largest"] for kind in gathers if kind), default=0),
        "moved": row.figures.moved,
        "by_xla": row.figures.xla_bytes,
        "parts": row.figures.xla_parts,
        "needed": row.job.needed,
    }


def main():
    topology = json.load(sys.stdin)["topology"]
    devices = tuple(
        jax.devices() if topology is None else chips.find_target(topology).devices
    )
    platform = devices[0].platform
    sizes = SIZES[platform]
    # A CPU multiplies in float32: it would cast weights in every step.
    dtype = "float32" if platform == "cpu" else "bfloat16"
    heads = sizes["hidden_size"] // 16
    model = LlamaConfig(
        num_hidden_layers=1,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=heads,
        tie_word_embeddings=False,
        **sizes,
    )
    out = {"programs": {}, "plans": {}}
    meshes = ((1, 8), (2, 4)) if platform == "cpu" else ((1, 8),)
    for data, tensor in meshes:
        mesh = MeshSettings(data=data, tensor=tensor)
        # The attention that accelerators take.
        engine = SHAPE.model_copy(update={"mesh": mesh, "attention": "dot_product"})
        run = make_run(model, dtype, engine, devices, individuals=4, rank=4)
        # Those of the factorisation run on one device.
        names = programs.NAMES[1:] if tensor == 8 else ("decode",)
        most = dict.fromkeys(programs.MODES, 0)
        for job in programs.jobs(run, names, programs.MODES):
            row = measure(job, LIMITS)
            out["programs"][f"{job.name}, {data} x {tensor}"] = figures(row)
            for mode in programs.MODES:
                if job.name.endswith(mode) or mode.startswith(job.name):
                    most[mode] = max(most[mode], row.total)
        for mode, total in most.items():
            plan = device_memory(
                model,
                run.placed_basis(),
                engine,
                mode=mode,
                dtype=dtype,
                individuals=run.individuals,
            )
            out["plans"][f"{mode}, {data} x {tensor}"] = (sum(plan.values()), total)
    matrices = [s for s in model.weight_shapes().values() if len(s) == 2]
    size = run.program.dtype.itemsize
    out["least_matrix"] = min(size * rows * columns for rows, columns in matrices) // 8
    # A product that only a gathered weight can give.
    whole = NamedSharding(run.mesh, PartitionSpec())
    weight = run.place(Shape((512, 8192), jnp.bfloat16), PartitionSpec("tensor", None))
    wrong = jax.jit(
        lambda w: jax.lax.with_sharding_constraint(w, whole) * 2, out_shardings=whole
    )
    part = programs.Part(functools.partial(wrong.lower, weight))
    found = read(part, part.lower().compile()).collectives
    out["wrong"] = {"gathered": found["all-gather"]["largest"]}
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
