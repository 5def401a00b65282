"""Whole forward passes, which the product itself never needs in one piece."""

import functools

import jax


@functools.partial(jax.jit, static_argnums=0)
def full_logits(program, weights, tokens, deltas=None, *, lengths=None):
    """Logits of whole sequences without a cache, float32 `[B, L, vocab]`."""
    hidden = program.hidden(weights, tokens, deltas, lengths=lengths)
    return program.logits(weights, hidden, deltas)
