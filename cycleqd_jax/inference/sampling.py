"""How the next token is taken from logits."""

import jax
import jax.numpy as jnp


def greedy(logits: jax.Array) -> jax.Array:
    """The most likely token, the lowest id among equals.

    Args:
      logits: float32 `[B, vocabulary]`.

    Returns:
      Int32 `[B]`.
    """
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
