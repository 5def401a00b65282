"""Whether a run folder holds a whole finished run."""

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.runs.checkpoints import Checkpoints
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.results import read_results


def is_complete(folder: RunFolder, num_generations: int) -> bool:
    """Whether all children are there, compared, and nothing of it is damaged.

    Where it is not, going on with the run makes what is missing.

    Args:
      folder: open.
      num_generations: children that the config asks for.
    """
    try:
        done = files.read_sealed(folder.path / "state.json")["evaluated_children"]
        if not isinstance(done, int) or done < num_generations:
            return False
        files.read_table(folder.path / "archives.parquet")
        for path in (folder.path / "metrics").glob("*.parquet"):
            files.read_table(path)
        for path in (folder.path / "results").glob("*.parquet"):
            read_results(folder, path.stem)  # a damaged name of a column is readable
    except (BadInputError, KeyError, TypeError):
        return False
    with Checkpoints(folder.checkpoints) as checkpoints:
        return checkpoints.steps()[-1:] == [done] and checkpoints.is_whole(done)
