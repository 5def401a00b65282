"""The memory of this machine, and what is advised where it is too little."""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax

_CGROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)
# What makes which parts of the plan small.
_CHANGES = {
    "fewer engine.slots or a shorter engine.length": (
        "the KV cache",
        "a call of the engine",
    ),
    "a lower basis.rank": (
        "the basis",
        "the basis as computed",
        "the basis as kept",
        "factored mode",
    ),
    "experts as LoRA adapters": ("the experts",),
    "fewer qd.bins": ("archives and bank", "them again in a checkpoint"),
}


class Machine(NamedTuple):
    """Attributes: bytes of memory, and of its accelerator if it has one (else None)."""

    host_bytes: int
    device_bytes: int | None


def this_machine() -> Machine:
    """The memory of this machine, or of the container that this process is in."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in map(pathlib.Path, _CGROUP_LIMITS):
        if path.is_file() and (text := path.read_text().strip()).isdecimal():
            host = min(host, int(text))
    stats = jax.local_devices()[0].memory_stats() or {}
    return Machine(host, stats.get("bytes_limit"))


def advice_for(needs: Iterable[tuple[Mapping[str, int], int]]) -> str:
    """What to change so that everything fits, in words.

    Args:
      needs: bytes by what they are for, and how many there are for all of them.
    """
    advice: dict[str, None] = {}
    for parts, has in needs:
        changes = _changes(parts, sum(parts.values()) - has)
        if changes is None:
            return "a smaller base_model"
        advice |= dict.fromkeys(changes)
    return " and ".join(advice)


def _changes(parts: Mapping[str, int], excess: int) -> list[str] | None:
    """The fewest changes that can save so many bytes of these parts, if any can."""
    savings = {
        change: sum(parts.get(name, 0) for name in names)
        for change, names in _CHANGES.items()
    }
    chosen = []
    for change in sorted(savings, key=savings.__getitem__, reverse=True):
        if excess > 0:
            chosen.append(change)
            excess -= savings[change]
    return chosen if excess <= 0 else None
