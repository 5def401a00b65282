"""Data sets of images by name."""

from cycleqd_jax.errors import BadInputError, show
from cycleqd_jax.tasks.base import TaskSettings
from cycleqd_jax.tasks.segmentation.base import DataSet
from cycleqd_jax.tasks.segmentation.folders import FolderImages
from cycleqd_jax.tasks.segmentation.layouts import LAYOUTS
from cycleqd_jax.tasks.segmentation.pocket import KINDS, PocketImages

_POCKET = {f"pocket_{kind}": kind for kind in KINDS}
NAMES = (*_POCKET, *LAYOUTS)


def make_data_set(name: str, settings: TaskSettings) -> DataSet:
    """Makes a data set.

    Args:
      name: like "pocket_polyps", or of the layout of a public one, like "kvasir_seg".
      settings: its arguments.

    Raises:
      BadInputError: there is no such data set, or it refuses its settings.
      MissingDataError: a public one is not on this machine.
    """
    if name in _POCKET:
        return PocketImages(_POCKET[name], settings)
    if name in LAYOUTS:
        return FolderImages(name, settings)
    raise BadInputError(
        f"There is no data set of images {show(name)}; known are {', '.join(NAMES)}."
    )
