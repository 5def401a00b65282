"""Finds the configs and experts that are installed with the commands.

The shipped configs name files as they lie in a clone: `experiments/experts/pocket_db`.
Such a path works from every folder: where the current working directory does not have
it, it is that of the package `experiments`, which is installed beside this one.
"""

import os
import pathlib

_COMMANDS = "experiments"
_HOME = pathlib.Path(__file__).parents[2]


def find(path: str | os.PathLike[str]) -> pathlib.Path:
    """The place of a file or folder that may be one of the shipped ones.

    Args:
      path: relative to the current working directory, absolute, or with `~`.

    Returns:
      The path, with `~` replaced; that of the shipped file if the path begins with
      `experiments/`, nothing is there, and one of that name is installed.
    """
    path = pathlib.Path(os.path.expanduser(path))
    if path.parts[:1] != (_COMMANDS,) or os.path.exists(path):
        return path
    shipped = _HOME / path
    return shipped if os.path.exists(shipped) else path
