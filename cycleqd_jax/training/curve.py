"""Losses on held-out dialogues while an expert is trained.

The dialogues of all tasks are padded to one shape, so one program computes all batches.
No reply is generated: the loss is that of the right replies, as in training.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from cycleqd_jax.models.base import CausalLM, Weights
from cycleqd_jax.models.dialogues import Example
from cycleqd_jax.training.batches import Batch, fill
from cycleqd_jax.training.step import Method, Params, loss


class ValidationCurve:
    """The dialogues of some tasks, in batches of one shape.

    Attributes:
      tasks: their names, in order.
      tokens: of all dialogues, without padding.
    """

    def __init__(self, examples: Mapping[str, Sequence[Example]], rows: int):
        """Makes the batches.

        Args:
          examples: by task, each at least one.
          rows: dialogues per batch.
        """
        every = [example for found in examples.values() for example in found]
        length = max(len(e.tokens) for e in every)
        targets = max(len(e.learnt) for e in every)
        self.tasks = tuple(examples)
        self.tokens = sum(len(e.tokens) for e in every)
        self._totals = {
            task: sum(len(e.learnt) for e in found) for task, found in examples.items()
        }
        self._batches = {
            task: [
                _plain([[e] for e in found[i : i + rows]], rows, length, targets)
                for i in range(0, len(found), rows)
            ]
            for task, found in examples.items()
        }

    def losses(
        self, params: Params, weights: Weights, *, program: CausalLM, method: Method
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Loss in nats per learnt token, and share of these predicted, by task.

        Args:
          params: the trained parameters.
          weights: frozen.
          program: the model.
          method: what `params` are.
        """
        values: dict[str, float] = {}
        shares: dict[str, float] = {}
        for task, batches in self._batches.items():
            sums = [
                _sums(params, weights, batch, program=program, method=method)
                for batch in batches
            ]
            values[task] = sum(float(s) for s, _ in sums) / self._totals[task]
            shares[task] = sum(float(h) for _, h in sums) / self._totals[task]
        return values, shares


@partial(jax.jit, static_argnames=("program", "method"))
def _sums(
    params: Params, weights: Weights, batch: Batch, *, program: CausalLM, method: Method
) -> tuple[jax.Array, jax.Array]:
    """Summed loss in nats and number of predicted targets of a batch."""
    one = jnp.float32(1)
    return loss(params, weights, batch, one, program=program, method=method)


def _plain(
    content: Sequence[Sequence[Example]], rows: int, length: int, targets: int
) -> Batch:
    batch = fill(content, rows, length, targets)
    return batch._replace(segments=None, segment_positions=None)
