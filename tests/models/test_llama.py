"""The Flax Llama against `transformers`, and its forms against one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from forward import full_logits

from cycleqd_jax.models.base import CacheView, Deltas, LowRank
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.llama.program import LlamaProgram

VARIANTS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "one_kv_head": {"num_key_value_heads": 1},
    "wide_heads": {"head_dim": 16},
    "pretraining_tp": {"pretraining_tp": 2},  # how it was trained; changes nothing
    "swish": {"hidden_act": "swish"},
    "linear_rope": {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    },
    "llama3_rope": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
}


def twin(seed: int = 0, **changes):
    """A random two-layer `transformers` Llama, and ours with the same weights."""
    settings = {
        "vocab_size": 160,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
    }
    torch.manual_seed(seed)
    hf_config = transformers.LlamaConfig(**(settings | changes))
    model = transformers.LlamaForCausalLM(hf_config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases start at a constant
                parameter.add_(0.3 * torch.randn_like(parameter))
    config = LlamaConfig.from_hf(hf_config.to_dict())
    weights = {
        name: jnp.asarray(p.detach().numpy()) for name, p in model.named_parameters()
    }
    return model, LlamaProgram(config), weights


def tokens_of(seed: int, batch: int = 3, length: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 160, (batch, length), np.int32)


def torch_logits(model, tokens) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(np.asarray(tokens, np.int64))).logits.numpy()


def random_deltas(weights, seed: int, batch: int, rank: int = 3) -> Deltas:
    """Additions to every parameter, another one per row."""
    rng = np.random.default_rng(seed)
    matrices, vectors = {}, {}
    for name, w in weights.items():
        if w.ndim == 2:
            u, v = (0.1 * rng.standard_normal((n, rank)) for n in w.shape)
            c = rng.standard_normal((batch, rank))
            matrices[name] = LowRank(*(jnp.asarray(a, jnp.float32) for a in (u, v, c)))
        else:
            delta = 0.1 * rng.standard_normal((batch, *w.shape))
            vectors[name] = jnp.asarray(delta, jnp.float32)
    return Deltas(matrices, vectors)


def dense_row(weights, deltas: Deltas, row: int) -> dict[str, jax.Array]:
    """The plain weights of one row."""
    dense = dict(weights)
    for name, m in deltas.matrices.items():
        dense[name] = dense[name] + (m.u * m.c[row]) @ m.v.T
    for name, change in deltas.vectors.items():
        dense[name] = dense[name] + change[row]
    return dense


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_match_transformers(variant):
    model, program, weights = twin(**VARIANTS[variant])
    tokens = tokens_of(1, length=100 if "rope" in variant else 24)
    want = torch_logits(model, tokens)
    got = full_logits(program, weights, tokens)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("chunk", [1, 5, 8])
def test_prefill_and_decode_equal_the_full_forward(chunk):
    _, program, weights = twin(seed=2)
    tokens = tokens_of(3, batch=2, length=24)
    want = np.asarray(full_logits(program, weights, tokens))
    # Rows lie in the cache in another order, among rows that are not touched.
    cache, rows = program.empty_cache(4, 32), jnp.array([3, 1])
    got, at = [], 0
    while at < 16:  # prefill in chunks, then one by one
        part = tokens[:, at : min(at + chunk, 16)]
        offsets = jnp.full(2, at)
        logits, cache = program.extend(weights, part, offsets, CacheView(cache, rows))
        at += part.shape[1]
    got.append(logits)
    for at in range(16, 24):
        logits, cache = program.extend(
            weights, tokens[:, at : at + 1], jnp.full(2, at), CacheView(cache, rows)
        )
        got.append(logits)
    np.testing.assert_allclose(
        np.stack(got, 1), want[:, 15:], atol=1e-4 * abs(want).max(), rtol=0
    )


def test_padding_after_the_last_token_has_no_effect():
    _, program, weights = twin(seed=4)
    tokens = tokens_of(5, batch=2, length=12)
    want = np.asarray(full_logits(program, weights, tokens))
    padded = np.concatenate([tokens[:, :8], tokens_of(6, 2, 4)], axis=1)
    cache = program.empty_cache(2, 16)
    start, last = jnp.zeros(2, jnp.int32), jnp.full(2, 7)
    first, cache = program.extend(weights, padded, start, CacheView(cache), last=last)
    then, _ = program.extend(weights, tokens[:, 8:], start + 8, CacheView(cache))
    tolerance = 1e-4 * abs(want).max()
    np.testing.assert_allclose(first, want[:, 7], atol=tolerance, rtol=0)
    np.testing.assert_allclose(then, want[:, 11], atol=tolerance, rtol=0)


@pytest.mark.parametrize("variant", ["tied", "untied", "biases"])
def test_factored_equals_materialised(variant):
    _, program, weights = twin(seed=7, **VARIANTS[variant])
    deltas = random_deltas(weights, 8, batch=3)
    tokens = tokens_of(9, batch=3)
    got = np.asarray(full_logits(program, weights, tokens, deltas))
    for row in range(3):
        plain = dense_row(weights, deltas, row)
        want = np.asarray(full_logits(program, plain, tokens[row : row + 1]))[0]
        np.testing.assert_allclose(got[row], want, atol=1e-4 * abs(want).max(), rtol=0)
    unchanged = np.asarray(full_logits(program, weights, tokens))
    assert np.abs(got - unchanged).max() > 0.1  # the additions are felt


def test_bfloat16_keeps_its_dtype_and_stays_near(tiny_config):
    _, program, weights = twin(seed=10)
    low = LlamaProgram(program.config, jnp.bfloat16)
    rounded = {name: w.astype(jnp.bfloat16) for name, w in weights.items()}
    tokens = tokens_of(11)
    want = np.asarray(full_logits(program, weights, tokens))
    got = full_logits(low, rounded, tokens)
    assert low.hidden(rounded, tokens).dtype == jnp.bfloat16
    assert got.dtype == jnp.float32
    assert np.abs(got - want).mean() < 0.05 * np.abs(want).std()


def test_weights_of_another_model_are_refused():
    _, program, weights = twin()
    weights.pop("model.norm.weight")
    with pytest.raises(ValueError, match=r"model\.norm\.weight"):
        full_logits(program, weights, tokens_of(0))
