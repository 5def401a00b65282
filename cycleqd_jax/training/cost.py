"""The cost of a training: tokens through the model, and wall time.

A token of an update goes forward once and backward once. Counted are the tokens of the
dialogues, not padding. What a backward token costs, commonly two forward tokens, is for
the reader to say.
"""

from typing import Any

from cycleqd_jax.evaluation.base import Cost
from cycleqd_jax.training.sft import Training


def training_cost(training: Training, seconds: float, scores: Cost) -> dict[str, Any]:
    """The cost of a whole training, as JSON.

    Args:
      training: all its updates are made.
      seconds: wall time of updates and validation curve.
      scores: of the final scores.

    Returns:
      The totals `tokens_forward`, `tokens_backward` and `seconds`, and under `parts`
      those of `updates`, `validation_curve` and `scores`. Recomputed layers are a
      second forward pass.
    """
    settings = training.optimiser
    tokens = training.batches.tokens(settings.steps)
    forward, curve = tokens * (2 if training.recompute else 1), 0
    if training.curve is not None:
        times = -(-settings.steps // settings.validate_every)
        curve = times * training.curve.tokens
    return {
        "tokens_forward": forward + curve + scores.tokens_forward,
        "tokens_backward": tokens + scores.tokens_backward,
        "seconds": seconds + scores.seconds,
        "parts": {
            "updates": {"tokens_forward": forward, "tokens_backward": tokens},
            "validation_curve": {"tokens_forward": curve, "tokens_backward": 0},
            "scores": {
                "tokens_forward": scores.tokens_forward,
                "tokens_backward": scores.tokens_backward,
            },
        },
    }
