"""The loss of one dialogue, as a reference for losses of batches."""

import jax.numpy as jnp
import numpy as np


def dense_loss(program, weights, example) -> tuple[float, int]:
    """Summed loss in nats and hits of one dialogue alone, softmax in float64."""
    # Tokens after its end change nothing before it, and spare a program per length.
    tokens = np.zeros((1, -(-len(example.tokens) // 16) * 16), np.int32)
    tokens[0, : len(example.tokens)] = example.tokens
    hidden = program.hidden(weights, jnp.asarray(tokens))
    logits = np.asarray(program.logits(weights, hidden)[0], np.float64)
    total = hits = 0
    for index in example.learnt:
        row, target = logits[index - 1], example.tokens[index]
        total += np.log(np.exp(row - row.max()).sum()) + row.max() - row[target]
        hits += int(row.argmax() == target)
    return float(total), hits
