"""Makes the basis of a run ahead of it, on the machine that suits."""

from pathlib import Path
from typing import NamedTuple

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.basis_cache import make_kept
from cycleqd_jax.merging.basis_store import open_basis, stored_fingerprint
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.models.loading import load_model
from cycleqd_jax.models.locate import is_hub_name, locate
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.basis import BasisJob
from cycleqd_jax.runs.conditioning import check_gram_memory
from cycleqd_jax.runs.data_sets import with_commits
from cycleqd_jax.runs.engines import make_program
from cycleqd_jax.runs.memory import this_machine
from cycleqd_jax.runs.plan import find_inputs
from cycleqd_jax.runs.tasks import make_tasks


class Factorised(NamedTuple):
    """A basis in the user's cache.

    Attributes:
      path: its file.
      basis: read from there when it is used.
      is_new: False where it was there already.
    """

    path: Path
    basis: Basis
    is_new: bool


def factorise(config: RunConfig, observer: Observer) -> Factorised:
    """Makes and keeps the basis of a run, unless it is kept already.

    Killed and called again, it goes on where it was.

    Args:
      config: of the run.
      observer: hears of progress.

    Raises:
      BadInputError: an input is missing, damaged or does not fit, or the basis is not
        to be kept.
      RunError: the disk is full; what is done stays.
    """
    if not config.basis.keep:
        raise BadInputError(
            "basis.keep is false, so there is no place for the basis; leave it out."
        )
    observer.phase("opening the models")
    config = with_commits(config, Path(config.run_dir))  # those of a run that has begun
    tasks = make_tasks(config.tasks, config.problems, config.task_settings)
    for source in (config.base_model, *config.expert_paths):
        if is_hub_name(source):
            locate(source)  # downloads it
    inputs = find_inputs(config)  # refuses missing and truncated files
    check_gram_memory(config, inputs.model, this_machine())
    observer.phase("reading the base model and the experts")
    model = load_model(
        config.base_model,
        dtype=config.dtype,
        date=config.date,
        experts=config.expert_paths,
        vocabulary=config.vocabulary,
    )
    job = BasisJob.open(config, model, tasks)
    if job.key.may_be_kept and _is_basis(job.key.kept, job.fingerprint):
        return Factorised(job.key.kept, open_basis(job.key.kept), is_new=False)
    observer.phase("computing the basis of the task vectors")
    program = make_program(model.config, config.dtype, config.engine)
    path = make_kept(job.key, lambda work: job.factorise(program, observer, work))
    return Factorised(path, open_basis(path), is_new=True)


def _is_basis(path: Path, fingerprint: str) -> bool:
    return path.is_file() and stored_fingerprint(path) == fingerprint
