import jax
import numpy as np
import pytest
import torch
import transformers

from cycleqd_jax.models.dialogues import Example
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.llama.program import LlamaProgram


@pytest.fixture(scope="session")
def torch_model():
    """A tiny Llama of transformers, two layers, tied embeddings."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def twin(torch_model):
    """The same model here: program and weights on the host."""
    program = LlamaProgram(LlamaConfig.from_hf(torch_model.config.to_dict()))
    named = torch_model.named_parameters()
    return program, {n: p.detach().numpy().copy() for n, p in named}


@pytest.fixture(scope="session")
def tiny(tiny_config):
    """A random model: program and weights."""
    program = LlamaProgram(tiny_config)
    shapes = program.config.weight_shapes()
    keys = jax.random.split(jax.random.key(0), len(shapes))
    weights = {
        name: 0.3 * jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return program, weights


@pytest.fixture(scope="session")
def examples():
    """Eight prompts of six random tokens that all have the same answer."""
    rng = np.random.default_rng(0)
    return [
        Example((*rng.integers(3, 160, 6).tolist(), 42, 43), (6, 7)) for _ in "12345678"
    ]


@pytest.fixture(scope="session")
def uneven():
    """Dialogues of 4 to 19 tokens, some with two replies."""
    rng = np.random.default_rng(1)
    found = []
    for size in (4, 19, 7, 9, 5, 12, 6, 10):
        tokens = tuple(rng.integers(3, 160, size).tolist())
        learnt = (2, 3) if size < 8 else (2, size - 2, size - 1)
        found.append(Example(tokens, learnt))
    return found
