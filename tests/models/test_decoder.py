"""The shared parts with a family that is no Llama: its forms against one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from forward import full_logits

from cycleqd_jax.models import grams
from cycleqd_jax.models.base import (
    EMBEDDING,
    CacheView,
    Deltas,
    Held,
    LowRank,
    TokenBatch,
)
from cycleqd_jax.models.cached_attention import attend_cached
from cycleqd_jax.models.decoder import Decoder
from cycleqd_jax.models.layers import Embedding, Linear, parameter, vector_of_rows
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.program import DecoderProgram

POSITIONS, NORM = "model.embed_positions", "model.final_layernorm"
WIDTH, LENGTH = 16, 10


class Config(LlamaConfig):
    def weight_shapes(self):
        shapes = {EMBEDDING: (23, WIDTH), f"{POSITIONS}.weight": (LENGTH, WIDTH)}
        for i in range(self.num_hidden_layers):
            shapes[f"model.layers.{i}.qkv.weight"] = (3 * WIDTH, WIDTH)
            shapes[f"model.layers.{i}.qkv.bias"] = (3 * WIDTH,)
            shapes[f"model.layers.{i}.out.weight"] = (WIDTH, WIDTH)
        norm = {f"{NORM}.{part}": (WIDTH,) for part in ("weight", "bias")}
        return shapes | norm | {"lm_head.weight": (23, WIDTH)}


class Norm(nnx.Module):
    def __init__(self, config, name, dtype):
        self.name = name
        self.weight = parameter(config, f"{name}.weight", dtype)
        self.bias = parameter(config, f"{name}.bias", dtype)

    def __call__(self, x, deltas):
        x = x - x.mean(-1, keepdims=True)
        x = x / (1 + jnp.square(x).mean(-1, keepdims=True))
        x = x * vector_of_rows(self.weight, f"{self.name}.weight", x, deltas)
        return x + vector_of_rows(self.bias, f"{self.name}.bias", x, deltas)


class Layer(nnx.Module):
    def __init__(self, config, name, dtype, kind, window):
        self.kind, self.window = kind, window
        self.qkv = Linear(config, f"{name}.qkv", dtype)
        self.out = Linear(config, f"{name}.out", dtype)

    def __call__(self, x, deltas, rotation, seen):
        assert rotation is None
        fused = self.qkv(x, deltas).reshape(*x.shape[:2], 2, -1)
        mixed, cached = attend_cached(
            *jnp.split(fused, 3, -1), seen, kind=self.kind, window=self.window
        )
        return x + self.out(mixed, deltas), cached


class Model(Decoder):
    def __init__(self, config, dtype, kind):
        layers = (
            Layer(config, f"model.layers.{i}", dtype, kind, (None, 3, None)[i])
            for i in range(config.num_hidden_layers)
        )
        super().__init__(config, layers, dtype)
        self.model.embed_positions = Embedding(config, POSITIONS, dtype)
        self.model.final_layernorm = Norm(config, NORM, dtype)

    def embed(self, tokens, places, deltas):
        x = super().embed(tokens, places, deltas)
        return 2 * x + self.model.embed_positions(places, deltas)

    def norm(self, x, deltas):
        return self.model.final_layernorm(x, deltas)


class Program(DecoderProgram):
    module = Model


CONFIG = Config(
    vocab_size=23,
    hidden_size=WIDTH,
    intermediate_size=WIDTH,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=8,
)
TOKENS = np.random.default_rng(0).integers(0, 23, (3, LENGTH), np.int32)


@pytest.fixture
def weights():
    rng = np.random.default_rng(1)
    return {
        name: jnp.asarray(0.5 * rng.standard_normal(shape), jnp.float32)
        for name, shape in CONFIG.weight_shapes().items()
    }


@pytest.fixture
def changes(weights):
    """An addition to every parameter, another one per row: as deltas, and dense."""
    rng = np.random.default_rng(2)
    matrices, vectors, dense = {}, {}, [dict(weights) for _ in TOKENS]
    for name, w in weights.items():
        if w.ndim == 2:
            u, v = (0.2 * rng.standard_normal((n, 2)) for n in w.shape)
            c = rng.standard_normal((3, 2, 2))
            change = u @ c @ v.T
            matrices[name] = LowRank(*(jnp.asarray(a, jnp.float32) for a in (u, v, c)))
        else:
            change = 0.2 * rng.standard_normal((3, *w.shape))
            vectors[name] = jnp.asarray(change, jnp.float32)
        for own, addition in zip(dense, change, strict=True):
            own[name] = w + jnp.asarray(addition, jnp.float32)
    return Deltas(matrices, vectors), dense


def test_factored_equals_materialised(weights, changes):
    program, (deltas, dense) = Program(CONFIG), changes
    got = full_logits(program, weights, TOKENS, deltas)
    for row, own in enumerate(dense):
        want = full_logits(program, own, TOKENS[row : row + 1])[0]
        np.testing.assert_allclose(got[row], want, atol=1e-4 * np.abs(want).max())


def test_prefill_and_tokens_that_are_held_back(weights, changes):
    program, deltas = Program(CONFIG, attention="dot_product"), changes[0]
    want = full_logits(program, weights, TOKENS, deltas)
    start = jnp.zeros(3, jnp.int32)
    got, cache = program.extend(
        weights, TOKENS[:, :7], start, CacheView(program.empty_cache(3, 12)), deltas
    )
    got, held = [got], program.empty_cache(3, 3)
    step = jax.jit(program.extend)
    for i in range(3):
        view = CacheView(cache, held=Held(held, start + 7, jnp.int32(i)))
        logits, held = step(
            weights, TOKENS[:, 7 + i, None], start + 7 + i, view, deltas
        )
        got.append(logits)
    tolerance = 1e-4 * np.abs(want).max()
    np.testing.assert_allclose(np.stack(got, 1), want[:, 6:], atol=tolerance)


def test_grams_and_one_program_per_kind_of_layer(weights):
    program = Program(CONFIG)
    batch = TokenBatch(jnp.asarray(TOKENS), jnp.asarray([LENGTH, 4, 0]))
    before = grams._layer_grams._cache_size()
    *layers, head = program.input_grams(weights, [[batch]])
    assert grams._layer_grams._cache_size() - before == 2  # with a window, without
    assert [list(layer) for layer in layers] == [
        [f"model.layers.{i}.{part}.weight" for part in ("out", "qkv")] for i in range(3)
    ]
    first = 2 * weights[EMBEDDING][TOKENS] + weights[f"{POSITIONS}.weight"]
    last = program.hidden(weights, TOKENS)
    for x, gram in (
        (first, layers[0]["model.layers.0.qkv.weight"]),
        (last, head["lm_head.weight"]),
    ):
        x = np.concatenate([x[0], x[1, :4]])
        np.testing.assert_allclose(gram[0], x.T @ x, atol=1e-4)


def test_a_parameter_that_the_config_does_not_list(weights):
    weights.pop(f"{NORM}.bias")
    with pytest.raises(ValueError, match=r"final_layernorm\.bias"):
        full_logits(Program(CONFIG), weights, TOKENS)
