"""Gram matrices of layer inputs, against hooks on transformers' model."""

import jax.numpy as jnp
import numpy as np
import pytest

from cycleqd_jax.models.base import TokenBatch
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.llama.program import LlamaProgram

SIZES = dict(
    vocab_size=61,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 2.0,
    "original_max_position_embeddings": 8,
    "rope_theta": 500.0,
}


@pytest.mark.parametrize("tied", [True, False])
def test_as_transformers(tied):
    torch = pytest.importorskip("torch")
    import transformers

    hf = SIZES | {
        "tie_word_embeddings": tied,
        "attention_bias": not tied,
        "rope_parameters": LLAMA3,
    }
    net = transformers.LlamaForCausalLM(transformers.LlamaConfig(**hf)).eval()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for w in net.parameters():
            w.copy_(torch.tensor(0.3 * rng.standard_normal(w.shape)))
    config = LlamaConfig.from_hf(net.config.to_dict(), "config.json")
    weights = {name: net.state_dict()[name].numpy() for name in config.weight_shapes()}
    wanted = {}

    def record(name):
        def hook(module, args, output):
            x = args[0].double().reshape(-1, args[0].shape[-1])
            wanted[name] = wanted.get(name, 0) + (x.T @ x).numpy()

        return hook

    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(record(f"{name}.weight"))
    groups, sums = [], []
    for lengths in ([9, 4], [7, 1, 5, 2]):
        wanted = {}
        rows = [rng.integers(0, 61, n) for n in lengths]
        with torch.no_grad():
            for ids in rows:
                net(torch.tensor(ids)[None])
        sums.append(wanted)
        batches = []
        for first in range(0, len(rows), 3):  # the last has empty rows
            tokens, own = np.zeros((3, 12), np.int32), np.zeros(3, np.int32)
            for r, ids in enumerate(rows[first : first + 3]):
                tokens[r, : len(ids)], own[r] = ids, len(ids)
            batches.append(TokenBatch(jnp.asarray(tokens), jnp.asarray(own)))
        groups.append(batches)
    layers = list(LlamaProgram(config).input_grams(weights, groups))
    assert len(layers) == 3 + (not tied)
    found = {name: grams for layer in layers for name, grams in layer.items()}
    matrices = {n for n, s in config.weight_shapes().items() if len(s) == 2}
    assert set(found) == matrices - {"model.embed_tokens.weight"}
    for name, grams in found.items():
        if name == "lm_head.weight" and tied:
            continue
        for gram, total in zip(grams, sums, strict=True):
            scale = np.abs(total[name]).max()
            np.testing.assert_allclose(gram / scale, total[name] / scale, atol=1e-5)
