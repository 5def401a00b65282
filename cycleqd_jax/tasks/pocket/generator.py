"""Problems from templates by seed, in splits that share nothing.

The answer's text decides the split: sha256(task, seed, answer) falls into one of
twelve buckets, of which `train` owns six and the others two each. So no prompt and no
answer occurs in two splits, whatever their sizes, and a problem never moves. Within a
split every round visits all its templates in a new shuffled order, and every template
has its own stream of random numbers: a longer split begins with the shorter one.
"""

import dataclasses
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.base import Problem, Split

VERSION = 1  # of the scheme above; part of every task's fingerprint

_BUCKETS = {
    Split.TRAIN: range(0, 6),
    Split.OPTIMISE: range(6, 8),
    Split.VALIDATE: range(8, 10),
    Split.TEST: range(10, 12),
}
_NUM_BUCKETS = 12
_MAX_DRAWS = 300  # before a template counts as exhausted in a split


@dataclasses.dataclass(frozen=True)
class Draft:
    """A problem before its data is made.

    Attributes:
      prompt: the demand.
      answer: the text of a right answer, without its fence.
      make_data: makes `Problem.data` from random numbers of the problem's own.
    """

    prompt: str
    answer: str
    make_data: Callable[[random.Random], Mapping[str, Any]]


class Template(Protocol):
    """A family of problems.

    Attributes:
      id: unique in its task.
      held_out: whether `train` never sees it.
    """

    @property
    def id(self) -> str:
        """Unique in its task."""
        ...

    @property
    def held_out(self) -> bool:
        """Whether `train` never sees it."""
        ...

    def draw(self, rng: random.Random) -> Draft:
        """One random problem of the family."""
        ...


def generate(
    task: str, templates: Sequence[Template], seed: int, split: Split, size: int
) -> tuple[Problem, ...]:
    """The first `size` problems of one split.

    Args:
      task: the task's name; also the first part of every problem's id.
      templates: all families; those held out are left away in `train`.
      seed: decides everything; the same arguments give the same problems.
      split: which of the disjoint sets.
      size: how many problems, >= 0.

    Raises:
      BadInputError: if the templates do not hold `size` different problems.
    """
    pool = [t for t in templates if split is not Split.TRAIN or not t.held_out]
    streams = {t.id: random.Random(f"{task}/{seed}/{split}/{t.id}") for t in pool}
    seen: set[str] = set()
    problems: list[Problem] = []
    while len(problems) < size:
        found = len(problems)
        order = random.Random(f"{task}/{seed}/{split}/order/{found}")
        for template in order.sample(pool, len(pool)):
            if len(problems) == size:
                break
            draft = _next_draft(template, streams[template.id], task, seed, split, seen)
            if draft is None:
                continue
            seen.add(draft.prompt)
            rng = random.Random(f"{task}/{seed}/data/{draft.prompt}")
            data = {"template": template.id, **draft.make_data(rng)}
            name = f"{task}/{split}/{len(problems)}"
            problems.append(Problem(name, draft.prompt, draft.answer, data))
        if len(problems) == found:
            raise BadInputError(
                f"{task} has only {found} different problems for its split {split} at "
                f"seed {seed} but {size} were asked for; ask for fewer."
            )
    return tuple(problems)


def split_of(task: str, seed: int, answer: str) -> Split:
    """The one split that a problem with this answer belongs to."""
    digest = hashlib.sha256(f"{task}/{seed}/{answer}".encode()).digest()
    bucket = int.from_bytes(digest[:4], "big") % _NUM_BUCKETS
    return next(split for split, owned in _BUCKETS.items() if bucket in owned)


def _next_draft(
    template: Template,
    stream: random.Random,
    task: str,
    seed: int,
    split: Split,
    seen: set[str],
) -> Draft | None:
    """The template's next unseen problem of this split; None if there seems none."""
    for _ in range(_MAX_DRAWS):
        draft = template.draw(stream)
        if draft.prompt in seen or split_of(task, seed, draft.answer) is not split:
            continue
        return draft
    return None
