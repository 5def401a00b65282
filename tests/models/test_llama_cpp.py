"""Exported GGUF files in llama.cpp itself: tokens, logits and greedy replies."""

import jax.numpy as jnp
import numpy as np
import pytest
from forward import full_logits
from small_models import MODELS, make_folder

from cycleqd_jax.models.families import make_program
from cycleqd_jax.models.formats.gguf_export import export_gguf
from cycleqd_jax.models.formats.gguf_header import header_of_model
from cycleqd_jax.models.formats.hf_folder import export_model
from cycleqd_jax.models.loading import load_model

llama_cpp = pytest.importorskip("llama_cpp")
pytestmark = pytest.mark.slow
PLAIN = ("The cat's mat, 1 plus 2.", "def f(x):\n    return x", "  Größe 日本 <call>x")
NEAR = 5e-3  # root of the mean square, as a share: it rounds activations to float16


def opened(model, path):
    """A model's F16 file in llama.cpp; its cache of keys and values is float32."""
    header = header_of_model(model.config, model.tokenizer)
    export_gguf(path, header, model.weights, "F16")
    return llama_cpp.Llama(
        str(path), n_ctx=256, logits_all=True, verbose=False, type_k=0, type_v=0
    )


def logits_of(llama, ids):
    llama.reset()
    llama.eval([int(i) for i in ids])
    return np.array(llama.scores[: len(ids)])


def distance(got, want):
    return np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))


@pytest.mark.parametrize("name", MODELS)
def test_every_family(tmp_path, name):
    model = load_model(make_folder(tmp_path / "m", name))
    llama, ours = opened(model, tmp_path / "m.gguf"), model.tokenizer
    tokens = np.random.default_rng(1).integers(0, 300, (1, 90), np.int32)
    weights = {n: jnp.asarray(w) for n, w in model.weights.items()}
    want = np.asarray(full_logits(make_program(model.config), weights, tokens))[0]
    assert distance(logits_of(llama, tokens[0]), want) < NEAR
    chat = [{"role": "user", "content": "The cat's <call> 123 déjà\n\n vu"}]
    text = ours.render(chat).encode()
    assert llama.tokenize(text, add_bos=False, special=True) == ours.encode_chat(chat)
    vocabulary = llama_cpp.llama_model_get_vocab(llama._model.model)
    ends = [
        i
        for i in range(model.config.vocab_size)
        if llama_cpp.llama_vocab_is_eog(vocabulary, i)
    ]
    assert tuple(ends) == ours.stop_ids
    if MODELS[name][1] == "metaspace":  # plain text gets no space in front of it
        return
    for text in PLAIN:
        found = llama.tokenize(text.encode(), add_bos=True, special=True)
        assert found == ours.hf(text).input_ids


def test_smollm2_replies_alike(tmp_path, smollm_path):
    """The folder of the real model; greedy replies are the same for 24 tokens."""
    source = load_model(smollm_path)
    export_model(
        tmp_path / "m", source.config, source.weights, source.tokenizer, "# SmolLM2\n"
    )
    model = load_model(tmp_path / "m")
    llama = opened(model, tmp_path / "m.gguf")
    weights = {n: jnp.asarray(w) for n, w in model.weights.items()}
    chat = [{"role": "user", "content": "Name three animals that live in the sea."}]
    ids = model.tokenizer.encode_chat(chat)
    text = model.tokenizer.render(chat).encode()
    assert llama.tokenize(text, add_bos=False, special=True) == ids
    prompt, got = len(ids), logits_of(llama, ids)
    for _ in range(24):
        ids = [*ids, int(got[-1].argmax())]
        llama.eval(ids[-1:])
        got = np.array(llama.scores[: len(ids)])
    tokens = np.asarray([ids], np.int32)
    want = np.asarray(full_logits(make_program(model.config), weights, tokens))[0]
    assert distance(got, want) < NEAR
    assert want[prompt - 1 : -1].argmax(-1).tolist() == ids[prompt:]
