"""Problems made from templates, by seed, in disjoint splits.

The answer's text decides the split: sha256(task, seed, answer) falls into one of twelve
buckets; `train` owns six of them and each other split two. So no prompt and no answer
is in two splits, and a problem stays in its split whatever the sizes are. A split is
filled in rounds; each round visits all templates in a new random order. Every template
has its own random numbers, so a longer split begins with the shorter one.
"""

import dataclasses
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.base import Problem, Split

_BUCKETS = {
    Split.TRAIN: range(0, 6),
    Split.OPTIMISE: range(6, 8),
    Split.VALIDATE: range(8, 10),
    Split.TEST: range(10, 12),
}
_NUM_BUCKETS = 12
_MAX_DRAWS = 300  # vain draws after which a template has no more problems


@dataclasses.dataclass(frozen=True)
class Draft:
    """A problem before its data is made.

    Attributes:
      prompt: what the user message says.
      answer: a right answer, without a fence.
      make_data: makes `Problem.data` from the problem's own random numbers.
    """

    prompt: str
    answer: str
    make_data: Callable[[random.Random], Mapping[str, Any]]


class Template(Protocol):
    """A family of problems.

    Attributes:
      id: unique in its task.
      held_out: whether `train` leaves it out.
    """

    id: str
    held_out: bool

    def draw(self, rng: random.Random) -> Draft:
        """One random problem of the family."""
        ...


def generate(
    task: str, templates: Sequence[Template], seed: int, split: Split, size: int
) -> tuple[Problem, ...]:
    """The first `size` problems of one split.

    Args:
      task: the task's name; also the first part of every problem's id.
      templates: all families; `train` leaves out those that are held out.
      seed: the same arguments give the same problems.
      split: which split.
      size: number of problems, >= 0.

    Raises:
      BadInputError: the templates have fewer than `size` different problems.
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
    """The template's next new problem of this split; None after 300 vain draws."""
    for _ in range(_MAX_DRAWS):
        draft = template.draw(stream)
        if draft.prompt in seen or split_of(task, seed, draft.answer) is not split:
            continue
        return draft
    return None
