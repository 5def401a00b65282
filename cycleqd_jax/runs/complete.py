"""Looks whether a run is finished and its folder undamaged."""

from collections.abc import Callable

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.basis_store import check_basis
from cycleqd_jax.runs import sums
from cycleqd_jax.runs.checkpoints import damages, newest_whole
from cycleqd_jax.runs.facts import read_facts
from cycleqd_jax.runs.fingerprints import stored_fingerprints
from cycleqd_jax.runs.folder import PARTS, RunFolder


def is_complete(
    folder: RunFolder, num_generations: int, note: Callable[[str], None]
) -> bool:
    """True if a run is finished and nothing of it is damaged.

    Where this is not so, going on with the run makes what is missing, or refuses.

    Args:
      folder: of the run.
      num_generations: children that the config asks for.
      note: is told in a sentence of each damaged file of which a run that goes on says
        nothing.
    """
    path, whole = folder.path, True
    made_again = {path / "config.yaml", path / "basis.json", *sums.listed(path)}
    parts = set()
    for kind in PARTS:
        if kind != "times":
            parts |= {*sums.listed(path / kind), *path.glob(f"{kind}/*.parquet")}
    try:
        facts = read_facts(path)
    except BadInputError as err:
        note(f"{str(err).rstrip('.')}; it is made again.")
        return False
    if facts is None or facts.evaluated_children < num_generations:
        return False
    for file in sorted(made_again | parts):
        try:
            sums.verified(file)
        except BadInputError as err:
            whole = False
            if file in made_again:
                note(f"{str(err).rstrip('.')}; it is made again.")
    try:
        stored_fingerprints(path)
        check_basis(path / "basis.safetensors")
    except BadInputError:
        return False
    saved = newest_whole(folder.checkpoints)
    last = facts.evaluated_children
    for step, damage in damages(folder.checkpoints).items():
        if step < last:
            note(f"checkpoint {step} is damaged ({damage}); a later one is used.")
    return whole and saved is not None and saved.next_generation == last + 1
