"""The chips that programs are compiled for, and their limits."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import jax

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.runs.memory import this_machine

_GIB = 2**30


class Limits(NamedTuple):
    """The limits of one device.

    Attributes:
      memory: bytes that programs may use.
      bandwidth: bytes per second between its memory and its cores.
      rate: operations per second of a product in bfloat16.
      link: bytes per second that it sends to other chips, over all of its links.
    """

    memory: float
    bandwidth: float
    rate: float
    link: float


# By the name that topologies have. Memory is what the TPU compiler lets programs use;
# the other figures are those of Google Cloud's pages on each version.
TPUS = {
    "v5e": Limits(15.75 * _GIB, 819e9, 197e12, 200e9),
    "v5p": Limits(95.74 * _GIB, 2765e9, 459e12, 600e9),
    "v6e": Limits(31.25 * _GIB, 1640e9, 918e12, 448e9),
}
# By a part of the name that JAX gives the device.
_GPUS = {
    "H200": Limits(0, 4800e9, 989e12, 450e9),
    "H100": Limits(0, 3350e9, 989e12, 450e9),
    "A100": Limits(0, 2039e9, 312e12, 300e9),
}
# By the whole name that JAX gives the device.
_TPU_KINDS = {
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}
# `libtpu` asks the network who it is, unless this says so, and lets one process in.
_NO_TPU_HERE = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}


class Target(NamedTuple):
    """The devices that programs are compiled for.

    Attributes:
      name: as given.
      devices: real ones, or those of a topology.
      limits: of each.
    """

    name: str
    devices: Sequence[jax.Device]
    limits: Limits


def find_target(topology: str) -> Target:
    """The devices of a TPU topology, which need not exist, or those of this machine.

    Args:
      topology: `VERSION:SIZES` like "v5e:2x4", or "local".

    Raises:
      BadInputError: it is no topology, or `libtpu` is not installed.
    """
    if topology == "local":
        return _local()
    version, _, sizes = topology.partition(":")
    grid = sizes.split("x")
    if version not in TPUS or not all(size.isdecimal() for size in grid):
        raise BadInputError(
            f"--topology {topology}: expected local, or VERSION:SIZES with one of "
            f"{', '.join(TPUS)}, like v5e:2x4 or v5p:2x2x2."
        )
    try:
        import libtpu  # noqa: F401
    except ImportError as err:
        raise BadInputError(
            f"--topology {topology}: needs the compiler for TPUs; install it with "
            "pip install -e '.[tpu]', which needs no TPU."
        ) from err
    from jax.experimental import topologies

    for name, value in _NO_TPU_HERE.items():
        os.environ.setdefault(name, value)
    # Programs for chips that are not here cannot be read back from the cache.
    jax.config.update("jax_enable_compilation_cache", False)
    # One chip is less than the host that a topology consists of by default.
    alone = {"chips_per_host_bounds": [1] * 3} if set(grid) == {"1"} else {}
    try:
        found = topologies.get_topology_desc(topology, platform="tpu", **alone)
    except (ValueError, jax.errors.JaxRuntimeError) as err:
        raise BadInputError(
            f"--topology {topology}: the compiler for TPUs does not know it: "
            f"{str(err).splitlines()[0]}."
        ) from err
    return Target(topology, found.devices, TPUS[version])


def _local() -> Target:
    devices, machine = jax.devices(), this_machine()
    memory = machine.device_bytes or machine.host_bytes
    kind = devices[0].device_kind
    if kind in _TPU_KINDS:
        limits = TPUS[_TPU_KINDS[kind]]
        return Target(kind, devices, limits._replace(memory=memory))
    for name, limits in _GPUS.items():
        if name in kind:
            return Target(kind, devices, limits._replace(memory=memory))
    from experiments.benchmarks.limits import measure_limits

    measured = measure_limits(repeats=3)
    limits = Limits(memory, measured.bandwidth, measured.rate, measured.bandwidth)
    return Target(f"{kind} of this machine", devices, limits)
