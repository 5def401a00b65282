"""Retention: what merging cost a model on plain text that belongs to no skill.

The measure is the log-probability of paragraphs of prose, in nats per token and per
byte, before (the base model) and after. The text is CPython's language reference, which
comes with Python itself (`pydoc_data.topics`, licence PSF-2.0): paragraphs of a bounded
size, evenly chosen in the order of the topics, so they are the same on every machine
with the same version of Python.

Source: CycleQD (arXiv 2410.14735), table 3, measures retention by benchmarks; those are
`experiments.language`. Log-probabilities need no extra and no data.
"""

import functools
import importlib
import re
from typing import Annotated, Self

import pydantic
from pydantic import Field

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import Count, Section

_LEAST_BYTES = 100


class RetentionSettings(Section):
    """The plain text of the report, and of the search.

    Attributes:
      passages: number of paragraphs; 0 measures nothing.
      max_bytes: of a paragraph; the engine's length must hold its tokens.
      descriptor: whether experts and candidates are scored on them too, and the
        archives have their retention as one more behaviour; see `runs.retention`.
    """

    passages: Count = 0
    max_bytes: Annotated[int, Field(ge=150, le=2000)] = 400
    descriptor: bool = False

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.descriptor and not self.passages:
            raise ValueError(
                "descriptor is true and passages is 0; expected at least 1 passage, "
                "which retention is measured on, or descriptor false"
            )
        return self


def passages(settings: RetentionSettings) -> tuple[str, ...]:
    """The paragraphs, in order.

    Raises:
      BadInputError: this Python comes without its reference, or it has fewer.
    """
    if not settings.passages:
        return ()
    known = _paragraphs(settings.max_bytes)
    count = settings.passages
    if count > len(known):
        raise BadInputError(
            f"retention.passages is {count}, but Python's reference has {len(known)} "
            f"paragraphs of at most {settings.max_bytes} bytes; set it to that or less."
        )
    return tuple(known[i * len(known) // count] for i in range(count))


@functools.cache
def _paragraphs(max_bytes: int) -> tuple[str, ...]:
    """All paragraphs of whole English sentences, each once, in order of topics."""
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError as err:
        raise BadInputError(
            "retention.passages: this Python was installed without its reference "
            "(pydoc_data); install the whole standard library, or set it to 0."
        ) from err
    found: dict[str, None] = {}
    for name in sorted(topics):
        for block in re.split(r"\n\s*\n", topics[name]):
            text = " ".join(block.split())
            fits = _LEAST_BYTES <= len(text) <= max_bytes and text.isascii()
            # Headings, lists, tables and code are no prose.
            prose = text[:1].isupper() and text.endswith(".")
            if fits and prose and not re.search(r"\*\*|::|\||>>>|---", text):
                found.setdefault(text)
    return tuple(found)
