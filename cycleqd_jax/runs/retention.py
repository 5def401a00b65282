"""Retention of every compared model: log-probability of plain text, against the base.

`evaluation.retention` says which text, `evaluation.texts` how it is scored.
"""

import math
from collections.abc import Mapping, Sequence

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.base import ReferenceScore
from cycleqd_jax.evaluation.texts import text_tokens
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.runs.facts import RetentionFacts

FIXED_PART, FINAL_PART = "retention-fixed", "retention-final"


def check_texts(
    texts: Sequence[str], tokenizer: ChatTokenizer, engine: EngineSettings
) -> None:
    """Refuses texts that are longer than the engine's length.

    Raises:
      BadInputError: says what to change.
    """
    need = max((len(text_tokens(text, tokenizer)) - 1 for text in texts), default=0)
    if need > engine.length:
        raise BadInputError(
            f"engine.length is {engine.length} tokens, but a paragraph of "
            f"retention.max_bytes needs {need}; make that smaller, or the length "
            "larger."
        )


def retention_facts(
    scores: Sequence[ReferenceScore], texts: Sequence[str], base: str
) -> dict[str, RetentionFacts]:
    """The retention of every individual.

    Args:
      scores: of all individuals on all texts, in any order.
      texts: number i is the problem "text/<i>".
      base: the individual that the others are compared with.

    Returns:
      Individual -> its mean log-probability, and the difference from the base with its
      standard error: per text the nats of a token, as a mean over texts.
    """
    size = sum(len(text.encode("utf-8")) for text in texts)
    rows: dict[str, dict[str, ReferenceScore]] = {}
    for score in scores:
        rows.setdefault(score.individual, {})[score.problem] = score
    return {name: _facts(own, rows[base], size) for name, own in rows.items()}


def _facts(
    own: Mapping[str, ReferenceScore], base: Mapping[str, ReferenceScore], size: int
) -> RetentionFacts:
    nats = math.fsum(score.logprob for score in own.values())
    gaps = [(s.logprob - base[i].logprob) / s.tokens for i, s in own.items()]
    count, mean = len(gaps), math.fsum(gaps) / len(gaps)
    squares = math.fsum((gap - mean) ** 2 for gap in gaps)
    return RetentionFacts(
        nats_per_token=nats / sum(score.tokens for score in own.values()),
        nats_per_byte=nats / size,
        difference=mean,
        standard_error=math.sqrt(squares / max(count - 1, 1) / count),
    )
