"""A run whose children are evaluated on a cluster: what the driver and the hosts do.

The driver needs no accelerator: it computes on its CPU, and keeps archives and
checkpoints. Every host makes its evaluator from the same config, as far as it decides a
result, and from the basis that the run stored. Before an evaluator works, what it was
made from is compared with what the run is made from.
"""

import contextlib
import os
import pathlib
import platform
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.actor import Source
from cycleqd_jax.evaluation.local import LocalEvaluator
from cycleqd_jax.evaluation.ray import RayEvaluator
from cycleqd_jax.inference.settings import MeshSettings
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.fingerprints import difference
from cycleqd_jax.runs.setup import Prepared, open_evaluator, prepare
from cycleqd_jax.sandbox.make import make_sandbox


def of_driver(config: RunConfig) -> RunConfig:
    """The settings with which the driver prepares: it runs no engine.

    Devices, slots and attention are the hosts' affair.
    """
    if config.evaluator == "local":
        return config
    small = {"mesh": MeshSettings(), "attention": "auto", "slots": 1, "prefill_rows": 1}
    engine = config.engine.model_copy(update=small)
    return config.model_copy(update={"engine": engine})


def compute_on_cpu(config: RunConfig) -> None:
    """Leaves the accelerators to the evaluators; call it before JAX is used."""
    if config.evaluator == "ray":
        jax.config.update("jax_platforms", "cpu")


def remote_evaluator(
    config: RunConfig, prepared: Prepared, note: Callable[[str], None]
) -> RayEvaluator:
    """The evaluator of a run on a cluster, to be used as a context manager.

    Args:
      config: the settings, as the hosts need them.
      prepared: by the driver, with the basis stored in the run folder.
      note: is told of evaluators that come and go; from any thread.
    """
    ours = fingerprints(prepared)

    def check(facts: Mapping[str, Any]) -> str | None:
        wrong = other_inputs(ours, facts)
        if wrong is None:
            note(f"an evaluator is ready on {facts['host']} ({facts['device']}).")
        return wrong

    return RayEvaluator(
        config.ray,
        host_source(config, prepared),
        tasks=prepared.tasks,
        in_order=config.engine.deterministic,
        check=check,
        note=note,
        further=prepared.out_of_domain,
    )


def host_source(config: RunConfig, prepared: Prepared) -> Source:
    """The way to make the evaluator of a run on a host; see `remote_evaluator`."""
    sizes = {"length": prepared.engine.length, "mode": prepared.mode.mode}
    engine = config.engine.model_copy(update=sizes)
    config = config.model_copy(update={"engine": engine, "evaluator": "local"})
    arguments = {
        "config": config.model_dump(mode="json"),
        "basis": str(pathlib.Path(config.run_dir, "basis.safetensors").absolute()),
        "folder": str(pathlib.Path().absolute()),
    }
    return Source(f"{__name__}:open_on_host", arguments)


def other_inputs(ours: Mapping[str, Any], facts: Mapping[str, Any]) -> str | None:
    """Compares a host's evaluator with the run; one sentence, or None if it is right.

    Args:
      ours: `fingerprints` of the driver.
      facts: of the evaluator, from `open_on_host`.
    """
    for name, mine in ours.items():
        theirs = facts["fingerprints"].get(name)
        if theirs != mine:
            other = difference(name, mine, theirs)
            return (
                f"ray: the evaluator on {facts['host']} has other {other} than the "
                "run; give that host the same files and the same version, or take it "
                "out of the cluster."
            )
    return None


def fingerprints(prepared: Prepared) -> dict[str, Any]:
    """All that decides a result, with the numbers of the basis.

    LAPACK makes others of the same weights on other machines.
    """
    leaves = jax.tree_util.tree_leaves_with_path(prepared.basis)
    numbers = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    more = {"numbers of the basis": files.hash_arrays(numbers)}
    if prepared.out_of_domain:
        more["out of domain"] = {t.name: t.fingerprint for t in prepared.out_of_domain}
    return {**prepared.fingerprints, **more}


@contextlib.contextmanager
def open_on_host(
    config: Mapping[str, Any], basis: str, folder: str
) -> Iterator[tuple[LocalEvaluator, Mapping[str, Any]]]:
    """A host's evaluator, loaded and compiled, and what it was made from.

    Args:
      config: settings of a `RunConfig`, with "local" as the evaluator.
      basis: the file that the run stored.
      folder: that relative paths of the config begin at.

    Raises:
      BadInputError: an input is not on this host.
    """
    host = platform.node()
    try:
        os.chdir(folder)  # this process has no other work
        config = RunConfig.model_validate(config)
        prepared = prepare(config, None, Observer(), basis_file=pathlib.Path(basis))
        sandbox = make_sandbox(config.sandbox)
    except (BadInputError, OSError) as err:
        raise BadInputError(f"ray: no evaluator can work on {host}: {err}") from err
    with open_evaluator(config, prepared, sandbox) as evaluator:
        evaluator.compile()
        facts = {"host": host, "device": jax.devices()[0].device_kind}
        yield evaluator, facts | {"fingerprints": fingerprints(prepared)}
