"""The engine on meshes of eight simulated devices; run by `test_mesh`.

Prints one JSON object: what each mesh answered, and what its programs gather.
"""

import asyncio
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import populations

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.inference import programs
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.population import Population
from cycleqd_jax.inference.requests import Limits
from cycleqd_jax.inference.sampling import RowSampling
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.models import sharding
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.llama.program import LlamaProgram

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
SHAPE = EngineSettings(
    slots=8, length=48, prefill_rows=2, prefill_chunk=16, decode_steps=3
)
MESHES = ((8, 1), (2, 4), (1, 4), (1, 1))


class Numbers:
    stop_ids = (0,)

    def decode(self, ids):
        return " ".join(map(str, ids))


def draw(shape, scale, seed):
    rng = np.random.default_rng(seed)
    return jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)


def make_population(weights):
    matrices = {n: w for n, w in weights.items() if w.ndim == 2}
    return populations.from_tables(
        u={n: draw((w.shape[0], 6), 0.2, i) for i, (n, w) in
           enumerate(matrices.items())},
        v={n: draw((w.shape[1], 6), 0.2, -i - 1 + 99) for i, (n, w) in
           enumerate(matrices.items())},
        coefficients={n: draw((3, 6), 1, 7) for n in matrices},
        vectors={n: draw((3, *w.shape), 0.2, 8) for n, w in weights.items()
                 if w.ndim < 2},
    )  # fmt: skip


def replies(engine, individuals):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 160, n).tolist() for n in rng.integers(1, 30, 14)]

    together = asyncio.Barrier(len(prompts))

    async def one(i, prompt):
        with engine.conversation(i % individuals) as conversation:
            first = await engine.generate(prompt, Limits(6), conversation=conversation)
            await together.wait()  # more than there are slots: some are evicted
            more = [*prompt, *first.tokens, 5, 9]
            second = await engine.generate(more, Limits(5), conversation=conversation)
            return first.tokens, second.tokens

    async def everybody():
        server = asyncio.ensure_future(engine.serve())
        work = asyncio.gather(*(one(i, p) for i, p in enumerate(prompts)))
        await asyncio.wait({server, work}, return_when="FIRST_COMPLETED")
        if server.done():
            server.result()
        scored = await engine.score(prompts[0] + prompts[1], 1)
        server.cancel()
        return [*work.result(), np.round(scored.logprobs, 3).tolist()]

    return asyncio.run(everybody())


def largest_gather(program, weights, population, mesh):
    """Elements of the largest array that a decode or prefill call gathers."""
    cache = jax.device_put(program.empty_cache(8, 48), sharding.cache_sharding(mesh))
    key = programs.ProgramKey(program, 48, cache_sharding=sharding.cache_sharding(mesh))
    z = lambda *shape: np.zeros(shape, np.int32)  # noqa: E731
    greedy = lambda n: RowSampling(z(n) * 0.0, z(n), z(n) + 1.0, z(n), z(n))  # noqa: E731
    chunk = programs.PrefillChunk(z(2, 16), z(2), z(2), z(2), z(2), z(2))
    state = programs.DecodeState(z(8), z(8), z(8), z(8) + 1)
    low = (
        programs.prefill.lower(weights, population, cache, chunk, greedy(2), key=key),
        programs.decode.lower(
            weights, population, cache, state, greedy(8), None,
            key=key, steps=3, stop_ids=(0,),
        ),
    )  # fmt: skip
    most = 0
    for text in (one.compile().as_text() for one in low):
        for line in text.splitlines():
            if re.search(r" (all-gather|all-to-all)(-start)?\(", line):
                head = line.split(" all-")[0]
                for shape in re.findall(r"\[([\d,]*)\]", head):
                    most = max(
                        most, int(np.prod([int(n) for n in shape.split(",") if n]))
                    )
    return most


def main():
    program = LlamaProgram(CONFIG)
    weights = {
        name: draw(shape, 0.3, 50 + i)
        for i, (name, shape) in enumerate(
            sorted(program.config.weight_shapes().items())
        )
    }
    population = make_population(weights)
    out = {}
    for data, tensor in MESHES:
        mesh = sharding.make_mesh(data, tensor)
        entry = out[f"{data}x{tensor}"] = {}
        # Materialised mode has no tables but the same programs. Its tokens are held
        # back from the cache.
        for mode, deterministic, kind in (
            ("factored", True, "xla"),
            ("materialised", False, "dot_product"),
        ):
            shape = SHAPE.model_copy(update={"deterministic": deterministic})
            engine = Engine(
                LlamaProgram(CONFIG, attention=kind),
                Numbers(),
                shape,
                mesh=mesh if data * tensor > 1 else None,
            )
            shared = population if mode == "factored" else Population()
            engine.load(weights, shared)
            entry[f"{mode}, {deterministic}"] = replies(engine, max(shared.count, 1))
            assert engine.stats.evictions > 5
        if data * tensor == 1:
            continue
        placed = sharding.place_weights(weights, mesh)
        entry["weight"] = max(  # bytes of the embedding on one device
            shard.data.nbytes
            for shard in placed["model.embed_tokens.weight"].addressable_shards
        )
        entry["gather"] = largest_gather(
            program, placed, engine.place(population), mesh
        )
    refused = []
    for axes, changes in (((1, 8), {}), ((8, 1), {"slots": 12}), ((4, 4), {})):
        try:
            mesh = sharding.make_mesh(*axes)
            Engine(program, Numbers(), SHAPE.model_copy(update=changes), mesh=mesh)
        except BadInputError as err:
            refused.append(str(err))
    out["refused"] = refused
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
