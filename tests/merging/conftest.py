"""A tiny base model of three matrices and one vector, with experts of each kind."""

import types

import numpy as np
import pytest

SHAPES = {
    "model.embed_tokens.weight": (13, 6),
    "model.layers.0.mlp.up_proj.weight": (10, 6),
    "model.layers.0.self_attn.q_proj.weight": (6, 6),
    "model.norm.weight": (6,),
    "untouched.weight": (4, 5),
}
LORA_TARGETS = {
    0: {"model.layers.0.mlp.up_proj.weight": 2},
    1: {
        "model.layers.0.mlp.up_proj.weight": 3,
        "model.layers.0.self_attn.q_proj.weight": 2,
    },
    2: {"model.layers.0.self_attn.q_proj.weight": 4},
}


def make_base(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s).astype(dtype) for n, s in SHAPES.items()}


def make_lora(k, seed=0):
    rng = np.random.default_rng([seed, 1, k])
    factors = {}
    for name, rank in LORA_TARGETS[k].items():
        out, inner = SHAPES[name]
        factors[name] = types.SimpleNamespace(
            b=rng.standard_normal((out, rank)).astype(np.float32),
            a=rng.standard_normal((rank, inner)).astype(np.float32),
            scale=2.0,
        )
    return types.SimpleNamespace(factors=factors)


def make_full(base, k, seed=0):
    rng = np.random.default_rng([seed, 2, k])
    weights = {
        name: (array + 0.3 * rng.standard_normal(array.shape)).astype(array.dtype)
        for name, array in base.items()
    }
    weights["untouched.weight"] = base["untouched.weight"].copy()
    return types.SimpleNamespace(weights=weights)


def make_experts(kind, base, seed=0):
    if kind == "lora":
        return [make_lora(k, seed) for k in range(3)]
    if kind == "full":
        return [make_full(base, k, seed) for k in range(3)]
    return [make_lora(0, seed), make_full(base, 1, seed), make_lora(2, seed)]


def dense_taus(base, experts):
    """Per expert, name -> float64 task vector, written without the library."""
    result = []
    for expert in experts:
        tau = {name: np.zeros(array.shape) for name, array in base.items()}
        for name, f in getattr(expert, "factors", {}).items():
            tau[name] = f.scale * f.b.astype(np.float64) @ f.a.astype(np.float64)
        for name, array in getattr(expert, "weights", {}).items():
            tau[name] = array.astype(np.float64) - base[name].astype(np.float64)
        result.append(tau)
    return result


@pytest.fixture
def make():
    """The builders above, as one object."""
    return types.SimpleNamespace(
        base=make_base, experts=make_experts, dense_taus=dense_taus
    )
