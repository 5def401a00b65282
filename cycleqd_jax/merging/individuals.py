"""Individuals: plain data that says which model to evaluate.

An individual can be sent to another host. It is a genome, it names weights that the
evaluator loads when their turn comes, or it is a recipe by which the evaluator makes
them. It is never a closure and never holds weights.
"""

import dataclasses
from typing import Literal, get_args

from cycleqd_jax.merging.genome import Genome

RecipeMethod = Literal["ties", "dare", "dare_ties", "slerp"]


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


@dataclasses.dataclass(frozen=True)
class Recipe:
    """An element-wise merge of all experts of a run (`merging.recipes`).

    Attributes:
      method: "ties", "dare", "dare_ties" or "slerp".
      factor: scales the merged task vector; dimensionless.
      density: share of a task vector's elements that stay, above 0 and at most 1;
        "slerp" keeps all.
      seed: of the random drops, 0 to 2^32 - 1; "ties" and "slerp" draw nothing.
      weights: one per expert, in their order; None stands for 1 each, with "slerp" for
        1/2 each.
      normalise: of "ties" and "dare_ties": whether the values that agree in sign are
        divided by their weights' sum; else they are added.

    Raises:
      ValueError: there is no such method, or a number is out of its range.
    """

    method: RecipeMethod
    factor: float
    density: float
    seed: int = 0
    weights: tuple[float, ...] | None = None
    normalise: bool = True

    def __post_init__(self):
        if self.method not in get_args(RecipeMethod):
            raise ValueError(
                f"recipe: expected one of {', '.join(get_args(RecipeMethod))}, got "
                f"{self.method!r}."
            )
        if not 0 < self.density <= 1:
            raise ValueError(
                f"recipe: expected a density above 0 and at most 1, got {self.density}."
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"recipe: expected a seed of 32 bits, got {self.seed}.")
        if self.weights is not None:  # a list where it was read from JSON
            object.__setattr__(self, "weights", tuple(map(float, self.weights)))


Individual = Genome | TrainedExpert | Adapter | Recipe
