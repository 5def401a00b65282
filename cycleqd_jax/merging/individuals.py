"""Individuals: plain data that says which model to evaluate.

An individual can be sent to another host. It is a genome, or it names weights that the
evaluator loads when their turn comes. It is never a closure and never holds weights.
"""

import dataclasses

from cycleqd_jax.merging.genome import Genome


@dataclasses.dataclass(frozen=True)
class TrainedExpert:
    """An expert as it was trained, not as its genome in the basis.

    Attributes:
      name: the expert's; that of its task if it has one.
    """

    name: str


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A PEFT adapter of the base model, or a whole fine-tune of it.

    Attributes:
      path: a folder or a hub name.
    """

    path: str


Individual = Genome | TrainedExpert | Adapter
