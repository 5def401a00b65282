"""Retention of models: their log-probability of plain text, against the base's.

`evaluation.retention` says which text, `evaluation.texts` how it is scored. As a
behaviour of archives, retention is one number in (0, 1] (float64):

    exp(min(0, mean over texts of (log p(text) - log p_base(text)) / tokens(text)))

the share of the base's probability of a token that an individual keeps, as a geometric
mean; 1 for one that lost nothing. The mean over texts is the report's `difference`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cycleqd_jax.evaluation.base import ReferenceScore
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.runs.engine_sizes import with_room
from cycleqd_jax.runs.facts import RetentionFacts
from cycleqd_jax.runs.names import BASE

FIXED_PART, FINAL_PART = "retention-fixed", "retention-final"


class TextRetention(NamedTuple):
    """The measure of retention as a behaviour.

    Attributes:
      texts: plain texts.
      known: log-probabilities of them, of the base and the experts.
    """

    texts: Sequence[str]
    known: Sequence[ReferenceScore]

    def kept(self, scores: Iterable[ReferenceScore] = ()) -> dict[str, float]:
        """Individual -> its retention, of all that are known or have `scores`."""
        found = retention_facts([*self.known, *scores], self.texts, BASE)
        return {name: math.exp(min(0.0, one.difference)) for name, one in found.items()}


def check_texts(
    texts: Sequence[str],
    tokenizer: ChatTokenizer,
    engine: EngineSettings,
    *,
    may_grow: bool = False,
) -> EngineSettings:
    """Refuses texts that are longer than the engine's length, unless it may grow.

    Returns:
      The settings, see `engine_sizes.with_room`.

    Raises:
      BadInputError: says what to change.
    """
    from cycleqd_jax.evaluation.texts import text_tokens

    need = max((len(text_tokens(text, tokenizer)) - 1 for text in texts), default=0)
    return with_room(
        engine,
        need,
        f"a paragraph of retention.max_bytes needs {need}; make that smaller, or the "
        "length larger.",
        may_grow=may_grow,
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
