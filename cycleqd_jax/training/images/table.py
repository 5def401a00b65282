"""Every expert on every data set, beside the base model: are they opponents?"""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.expert_folders import open_segmentation_expert
from cycleqd_jax.progress import Observer
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.training.images.score import BASE, score_models
from cycleqd_jax.training.images.setup import make_image_tasks, open_base
from cycleqd_jax.training.settings import ImagesConfig


class RivalTable(NamedTuple):
    """The scores of the base model and the experts of a config.

    Attributes:
      measures: by data set, in the order of the config.
      images: in each split.
      scores: model -> data set -> mean score; the base model is first.
    """

    measures: Mapping[str, str]
    images: int
    scores: Mapping[str, Mapping[str, float]]

    def margin(self, name: str) -> float:
        """An expert's score on its own data set minus the best of all other models."""
        own = self.scores[name][name]
        return own - max(s[name] for other, s in self.scores.items() if other != name)

    def markdown(self) -> str:
        """The table, with the margins in its last row."""
        names = list(self.measures)
        head = (f"{name} ({self.measures[name]})" for name in names)
        rows = [["model", *head], ["---"] * (1 + len(names))]
        for model, scores in self.scores.items():
            shown = (f"{scores[name]:.3f}" for name in names)
            rows.append([model, *shown])
        rows.append(["margin", *(f"{self.margin(name):.3f}" for name in names)])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def rival_table(config: ImagesConfig, split: Split, observer: Observer) -> RivalTable:
    """Scores the base model and each expert of `tasks` on all of these data sets.

    Args:
      config: of their training, which is done.
      split: whose images.
      observer: is told of phases and masks.

    Raises:
      BadInputError: `tasks` is missing, an expert is not there, or the split is empty.
    """
    if not config.tasks:
        raise BadInputError("tasks is missing; expected one expert per data set.")
    made = make_image_tasks(config)
    tasks = [made[entry] for entry in config.tasks]
    for task in tasks:
        if not task.problems(split):
            raise BadInputError(
                f"problems.{split} is 0, so {task.name} has no images to score on; set "
                "it to 1 or more."
            )
    base = open_base(config.base_model)
    folders = {task.name: pathlib.Path(config.output) / task.name for task in tasks}
    experts = {
        name: open_segmentation_expert(folder, base.program.config, base.weights)
        for name, folder in folders.items()
    }
    observer.phase(f"scoring {BASE}, {', '.join(experts)}")
    found = score_models(base, experts, tasks, split, observer)
    return RivalTable(
        {task.name: task.measure for task in tasks},
        len(tasks[0].problems(split)),
        found.scores,
    )
