"""Mistakes of a user's own search, tried before a run begins."""

from typing import ClassVar

import jax
import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.genome import expert_genome, stack_genomes
from cycleqd_jax.qd.aggregation import Contender
from cycleqd_jax.search.base import Champions, Lineage, Search, Summary
from cycleqd_jax.search.checked import CheckedSearch, is_own
from cycleqd_jax.search.cycleqd import CycleQD
from cycleqd_jax.search.random import RandomSearch
from cycleqd_jax.search.rehearsal import rehearse


class Own(RandomSearch):
    """A search of somebody's own; `mistakes` change what its methods return."""

    mistakes: ClassVar[dict] = {}

    def __getattribute__(self, name):
        method = super().__getattribute__(name)
        change = type(self).mistakes.get(name)
        return method if change is None else lambda *args: change(method(*args))


def tried(context, kind=Own, **mistakes):
    kind = type("Mistaken", (kind,), {"mistakes": mistakes, "__module__": __name__})
    assert is_own(kind)
    search = CheckedSearch(kind(context()), "my_search:Mistaken")
    rehearse(search, 2, 1000, smooth=False, retention=False)


def changed(**leaves):
    """Candidates whose genomes have other leaves."""

    def change(found):
        genomes = tuple(
            g.replace(**{n: f(getattr(g, n)) for n, f in leaves.items()})
            for g in found.genomes
        )
        return found._replace(genomes=genomes)

    return change


def drawn(found):
    """Candidates that depend on more than the key."""
    return changed(scales=lambda a: a + np.float32(DRAWS.random()))(found)


def bred(parents=(), weights=(), active=None):
    """Candidates of a lineage."""
    lineage = (Lineage(parents, weights, active),)
    return {"ask": lambda c: c._replace(lineage=lineage * len(c.ts))}


def worst(found):
    """Champions that are in the wrong order."""
    contenders = found.contenders["mean"][::-1]
    return Champions({"mean": contenders}, contenders[0].individual)


DRAWS = np.random.default_rng(0)
MISTAKES = {
    "few candidates": (
        {"ask": lambda c: c._replace(ts=c.ts[:1])},
        r"candidates of the generations \[1, 2\], but they have ts \[1\]",
    ),
    "few genomes": (
        {"ask": lambda c: c._replace(genomes=c.genomes[:1])},
        r"must return 2 candidates, but genomes has 1",
    ),
    "a batch of genomes": (
        {"ask": lambda c: c._replace(genomes=stack_genomes(c.genomes))},
        r"becomes one by to_host\), but genomes is a Genome",
    ),
    "a list": ({"ask": lambda c: list(c.genomes)}, r"must return a Candidates or "),
    "short genomes": (
        {"ask": changed(coefficients=lambda a: a[:3])},
        r"coefficients are float32\[18\], but one has float32\[3\]",
    ),
    "float64": ({"ask": changed(scales=np.float64)}, r"but one has float64\[3\]"),
    "NaN": ({"ask": changed(scales=lambda a: a * np.nan)}, r"scales of one hold NaN"),
    "its own draws": ({"ask": drawn}, r"asked again with the same state and key"),
    "a strange memory": (
        {"init": lambda s: s.replace(memory={"name": "best"})},
        r"init must return a memory of arrays of numbers, but it holds 'best'",
    ),
    "a memory that grows": (
        {"tell": lambda s: s.replace(memory=np.zeros(s.next_generation))},
        r"same structure, shapes and dtypes",
    ),
    "no count": (
        {"tell": lambda s: s.replace(next_generation=1)},
        r"next_generation 2, but it has 4 and 1",
    ),
    "nothing": ({"tell": lambda s: None}, r"tell must return a State, .* None"),
    "a random key": (
        {"init": lambda s: s.replace(memory={"key": jax.random.key(0)})},
        r"init must return a memory without random keys",
    ),
    "four parents": (bred((0, 1, 2, 0), (1.0,) * 4), r"no parent or of two, ids below"),
    "one parent": (bred((0,), (1.0,)), r"but one is Lineage\(parents=\(0,\)"),
    "no weights": (bred((0, 1), ()), r"with as many weights"),
    "unknown parents": (bred((0, 99), (0.5, 0.5)), r"ids below 3"),
    "no archive": (bred(active=9), r"a task below 3 as active"),
    "no lineage": ({"ask": lambda c: c._replace(lineage=(None,) * 2)}, r"one is None"),
    "no task": (
        {
            "champions": lambda c: c._replace(
                contenders={"mean": (Contender(0, 1, 17),)}
            )
        },
        r"None or one of the 3, from 0, but one has 17",
    ),
    "a worse best": ({"champions": worst}, r"the individual with the highest mean"),
    "metrics of lists": ({"metrics": lambda m: m | {"a": [1]}}, r"but a is \[1\]"),
    "facts of arrays": (
        {"summary": lambda s: Summary({"a": np.zeros(2)})},
        r"facts that JSON can hold, but Object of type ndarray",
    ),
    "a lost genome": (
        {"champions": lambda c: Champions({"mean": (Contender(99, 1.0, None),)}, 0)},
        r"names the individual 99, whose genome is not in the bank",
    ),
    "no contenders": (
        {"champions": lambda c: Champions({"mean": 3}, 0)},
        r"tuple of Contenders in the group mean",
    ),
    "an exception": (
        {"tell": lambda s: s.memory["best"]},
        r"tell raised TypeError: .* \(test_checked\.py, line \d+\); mend it\.",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_before_the_run(context, name):
    mistakes, says = MISTAKES[name]
    with pytest.raises(BadInputError, match=says) as caught:
        tried(context, **mistakes)
    text = str(caught.value)
    assert text.startswith("search: my_search:Mistaken: ")
    assert text.endswith("Nothing was begun.")


class Late(Own):
    """Draws of its own from the twelfth child on."""

    def ask(self, state, key, ts):
        found = super().ask(state, key, ts)
        return found if ts[0] < 12 else drawn(found)


class OnSelf(Own):
    """Learns something that is not in its state."""

    best = 0.0

    def ask(self, state, key, ts):
        return changed(scales=lambda a: a + np.float32(self.best))(
            super().ask(state, key, ts)
        )

    def tell(self, state, candidates, outcomes):
        self.best = max(self.best, outcomes[0].scores[0])
        return super().tell(state, candidates, outcomes)


class InPlace(Own):
    """Changes the arrays of the state that it is told."""

    def init(self, experts, scores):
        return super().init(experts, scores).replace(memory={"sum": np.zeros(3)})

    def tell(self, state, candidates, outcomes):
        new = super().tell(state, candidates, outcomes)
        state.memory["sum"] += outcomes[0].scores
        return new.replace(memory=state.memory)


class Growing(Own):
    """Has one metric more for every child."""

    def metrics(self, state):
        return super().metrics(state) | {f"child/{state.next_generation}": 1.0}


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Late, r"asked again with the same state and key"),
        (OnSelf, r"in another instance of the class, which a resumed run has"),
        (InPlace, r"tell changed arrays of the state that it was given"),
        (Growing, r"metrics must return the same names at all times"),
    ],
)
def test_mistakes_that_show_later_are_found_before_the_run(context, kind, says):
    with pytest.raises(BadInputError, match=says):
        tried(context, kind)


def test_a_search_without_its_context(context):
    class Bare(Own):
        def __init__(self, context):
            pass

    with pytest.raises(BadInputError, match=r"call super\(\).__init__\(context\)"):
        CheckedSearch(Bare(context()), "my_search:Bare")


def test_a_right_search_passes_and_those_of_the_package_are_let_through(context):
    tried(context)
    assert not is_own(CycleQD)
    rehearse(None, 2, 9, smooth=False, retention=False)


def test_the_best_scores_are_shown_unless_a_search_says_more(context, basis):
    class Silent(Own):
        metrics = Search.metrics

    search = Silent(context())
    experts = [expert_genome(basis, k) for k in range(3)]
    state = search.init(experts, np.eye(3) / 2)
    assert search.metrics(state) == dict.fromkeys(("best/a", "best/b", "best/c"), 0.5)
