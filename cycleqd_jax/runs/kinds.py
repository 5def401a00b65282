"""The kind of a run: of language models, or of segmentation models."""

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.registry import is_images

TEXT, IMAGES = "text", "images"


def kind_of(config: RunConfig) -> str:
    """`TEXT` or `IMAGES`, by the tasks.

    Raises:
      BadInputError: there are both, or one cannot be imported.
    """
    of_images = [name for name in config.tasks if is_images(name)]
    if of_images and len(of_images) < len(config.tasks):
        other = next(name for name in config.tasks if name not in of_images)
        raise BadInputError(
            f"tasks: {of_images[0]} is a data set of images and {other} is a task of "
            "language models; one base model cannot have both."
        )
    return IMAGES if of_images else TEXT


def predicts_masks(config: RunConfig) -> bool:
    """True for a finished run of segmentation models.

    False where one's own task cannot be imported any more: it is a text task.
    """
    try:
        return kind_of(config) == IMAGES
    except BadInputError:
        return False
