"""The loss of one dialogue, as a reference for losses of batches."""

import jax.numpy as jnp
import numpy as np


def dense_loss(program, weights, example) -> tuple[float, int]:
    """Summed loss in nats and hits of one dialogue alone, softmax in float64."""
    hidden = program.hidden(weights, jnp.asarray([example.tokens], jnp.int32))
    logits = np.asarray(program.logits(weights, hidden)[0], np.float64)
    total = hits = 0
    for index in example.learnt:
        row, target = logits[index - 1], example.tokens[index]
        total += np.log(np.exp(row - row.max()).sum()) + row.max() - row[target]
        hits += int(row.argmax() == target)
    return float(total), hits
