"""A Llama in float64 NumPy: the oracle of finite differences."""

import numpy as np


def log_probabilities(config, weights, tokens):
    """`[L, vocab]` of one sequence of L tokens; a tied model without biases."""
    w = {name: np.asarray(array, np.float64) for name, array in weights.items()}
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    size, length = config.head_dim, len(tokens)
    angles = np.outer(np.arange(length), 1e4 ** (-np.arange(0, size, 2) / size))
    cos, sin = (np.tile(f(angles), 2)[:, None] for f in (np.cos, np.sin))

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.rms_norm_eps) * scale

    def rotated(x):
        first, second = np.split(x, 2, axis=-1)
        return x * cos + np.concatenate([-second, first], -1) * sin

    x = w["model.embed_tokens.weight"][tokens]
    for i in range(config.num_hidden_layers):
        name = f"model.layers.{i}."

        def linear(x, part, name=name):
            return x @ w[f"{name}{part}.weight"].T

        y = norm(x, w[f"{name}input_layernorm.weight"])
        q, k, v = (
            linear(y, f"self_attn.{p}_proj").reshape(length, -1, size) for p in "qkv"
        )
        k, v = (np.repeat(a, heads // groups, axis=1) for a in (rotated(k), v))
        scores = np.einsum("qhd,khd->hqk", rotated(q), k) / np.sqrt(size)
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", shares, v).reshape(length, -1)
        x = x + linear(mixed, "self_attn.o_proj")
        y = norm(x, w[f"{name}post_attention_layernorm.weight"])
        gate = linear(y, "mlp.gate_proj")
        inner = gate / (1 + np.exp(-gate)) * linear(y, "mlp.up_proj")
        x = x + linear(inner, "mlp.down_proj")
    logits = norm(x, w["model.norm.weight"]) @ w["model.embed_tokens.weight"].T
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
