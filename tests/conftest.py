"""What all tests share."""

import jax
import pytest

from cycleqd_jax.models.config import LlamaConfig


@pytest.fixture(scope="session", autouse=True)
def exact_products():
    """References are float32 or float64: products must not be rounded below that."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="session")
def tiny_config() -> LlamaConfig:
    """A two-layer Llama with grouped queries and tied embeddings."""
    return LlamaConfig(
        vocab_size=160,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
    )
