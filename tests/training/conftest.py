import jax
import numpy as np
import pytest
import torch
import transformers

from cycleqd_jax.models.dialogues import Example
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.llama.program import LlamaProgram
from cycleqd_jax.training import lora
from cycleqd_jax.training.batches import Batches
from cycleqd_jax.training.curve import ValidationCurve
from cycleqd_jax.training.settings import LoraSettings, OptimiserSettings
from cycleqd_jax.training.sft import Training


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


@pytest.fixture
def sft_job(tiny, examples):
    """Makes a LoRA training of `examples`; the first two are its validation curve."""
    settings = LoraSettings(rank=4, alpha=8.0, targets=("q_proj", "up_proj"))

    def make(**changes):
        program, weights = tiny
        optimiser = OptimiserSettings(
            learning_rate=0.03,
            warmup_steps=3,
            batch_size=4,
            max_length=16,
            checkpoint_every=7,
            **changes,
        )
        return Training(
            program=program,
            weights=weights,
            method=lora.Lora(settings.scale),
            init=lambda: lora.init_factors(program, settings, jax.random.key(3)),
            batches=Batches(
                [examples[2:]], [1.0], batch_size=4, steps=optimiser.steps, seed=5
            ),
            optimiser=optimiser,
            curve=(
                ValidationCurve({"held out": examples[:2]}, rows=4)
                if optimiser.validate_every
                else None
            ),
        )

    return make


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
