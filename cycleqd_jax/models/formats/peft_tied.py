"""Adapters of a base whose embedding is also its output head.

PEFT wraps embedding and head apart. An adapter of the embedding alone changes only how
tokens are looked up, which is no model with tied embeddings. With
`ensure_weight_tying` PEFT gives both the same factors or the same replacement; that is
a change of the one tied weight.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats.peft_config import AdapterConfig

EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"


def drop_tied_head(
    halves: dict[str, dict[str, np.ndarray]],
    rest: dict[str, np.ndarray],
    settings: AdapterConfig,
    path: Any,
) -> None:
    """Takes the head's part out of an adapter where the embedding has the same.

    Args:
      halves: factors "a" and "b" by module; changed in place.
      rest: other weights by name; changed in place.
      settings: of the adapter.
      path: named in error messages.

    Raises:
      BadInputError: if only one of the two is changed, or both in another way.
    """
    if EMBEDDING in halves or HEAD in halves:
        _check_alike(
            halves.get(EMBEDDING), halves.get(HEAD), _same_factors, "adapts", path
        )
        if settings.scale(EMBEDDING) != settings.scale(HEAD):
            raise BadInputError(
                f"{path}: scales {EMBEDDING} by {settings.scale(EMBEDDING):g} and "
                f"{HEAD} by {settings.scale(HEAD):g}, but the base ties them"
            )
        del halves[HEAD]
    head = rest.get(f"{HEAD}.weight")
    embedding = rest.get(f"{EMBEDDING}.weight")
    if settings.saves(EMBEDDING) or settings.saves(HEAD) or head is not None:
        _check_alike(embedding, head, np.array_equal, "replaces", path)
        del rest[f"{HEAD}.weight"]


def _check_alike(
    embedding: Any, head: Any, alike: Callable[[Any, Any], bool], verb: str, path: Any
) -> None:
    if embedding is None or head is None:
        alone = EMBEDDING if head is None else HEAD
        raise BadInputError(
            f"{path}: {verb} {alone!r} alone, but the base ties the embedding to the "
            "head, so no model with tied embeddings is this one; train with PEFT's "
            "ensure_weight_tying, or give the full model untied"
        )
    if not alike(embedding, head):
        raise BadInputError(
            f"{path}: {verb} {EMBEDDING!r} and {HEAD!r} differently, but the base ties "
            "them; train with PEFT's ensure_weight_tying, or give the full model untied"
        )


def _same_factors(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    keys = one.keys() | other.keys()
    return all(
        key in one and key in other and np.array_equal(one[key], other[key])
        for key in keys
    )
