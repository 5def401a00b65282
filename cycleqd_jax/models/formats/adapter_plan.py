"""What of an individual's change a LoRA adapter can hold, and what it leaves out.

    lost = ||(W - W_base) - scale B A||^2 summed over all parameters,
    as a share of ||W - W_base||^2 (squared Frobenius norms, float64)

It is measured on the weights themselves, so it holds for every kind of individual.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from cycleqd_jax.models.formats.peft import LoraFactor

_EMBEDDING = "model.embed_tokens.weight"
# What rounding to float32 leaves, for each of the numbers that a weight is the sum of.
_ROUNDING = 2.0**-22


@dataclasses.dataclass(frozen=True)
class AdapterPlan:
    """An adapter that could be written.

    Attributes:
      factors: by weight name, of those matrices that an adapter can change.
      change: squared Frobenius norm of the whole change against the base.
      lost: what the adapter leaves out of it, by parameter; only parameters where it
        is more than float32 rounding.
      tied_embeddings: whether the embedding is also the head.
    """

    factors: Mapping[str, LoraFactor]
    change: float
    lost: Mapping[str, float]
    tied_embeddings: bool

    @property
    def lost_share(self) -> float:
        """Share of the change's energy that the adapter leaves out, 0-1."""
        return sum(self.lost.values()) / (self.change or 1.0)

    @property
    def is_exact(self) -> bool:
        """Whether base and adapter together are the individual."""
        return not self.lost

    def describe_loss(self) -> str:
        """What is left out, in words, like "12 % of the change (...)"."""
        kinds: dict[str, float] = {}
        for name, energy in self.lost.items():
            kind = self._kind(name)
            kinds[kind] = kinds.get(kind, 0.0) + energy
        parts = [
            f"{percent(energy / (self.change or 1.0))} {kind}"
            for kind, energy in kinds.items()
        ]
        reasons = "; ".join(parts) if len(parts) > 1 else ", ".join(kinds)
        return f"{percent(self.lost_share)} of the change ({reasons})"

    def _kind(self, name: str) -> str:
        if name == _EMBEDDING and self.tied_embeddings:
            return "in the embedding, which is also the head"
        if name.endswith(("norm.weight", ".bias")):
            return "in norms and biases, which it cannot change"
        return "in matrices, beyond their low rank"


def plan_adapter(
    base: Mapping[str, Any],
    weights: Mapping[str, Any],
    factors: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    tied_embeddings: bool,
) -> AdapterPlan:
    """Measures what an adapter would leave out.

    One parameter is in float64 at a time.

    Args:
      base: the base model's weights by name, float32 or of fewer bits.
      weights: the individual's, float32; where an entry is the very object that `base`
        holds, nothing changed.
      factors: `(b [out, R], a [R, in])` by matrix; `b @ a` is its change or a part.
      tied_embeddings: whether the embedding is also the head; an adapter changes one
        of the two only, so it leaves the embedding alone.

    Returns:
      The plan; without ranks that add nothing, such as those of other experts.
    """
    kept = {
        name: _shortened(np.asarray(b), np.asarray(a))
        for name, (b, a) in factors.items()
        if not (tied_embeddings and name == _EMBEDDING)
    }
    change, lost = 0.0, {}
    for name in sorted(weights):
        if weights[name] is base[name] and name not in kept:
            continue
        old = np.asarray(base[name]).astype(np.float64)
        new = np.asarray(weights[name]).astype(np.float64)
        rounding = _energy(old) + _energy(new)
        rest = new - old
        change += _energy(rest)
        if name in kept:
            b, a, scale = kept[name]
            rest -= scale * (b.astype(np.float64) @ a.astype(np.float64))
            rounding += scale**2 * _energy(b) * _energy(a)
        if (left := _energy(rest)) > _ROUNDING**2 * rounding:
            lost[name] = left
    return AdapterPlan(kept, change, lost, tied_embeddings)


def percent(share: float) -> str:
    """A share in percent, with two digits that count."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def _shortened(b: np.ndarray, a: np.ndarray) -> LoraFactor:
    """The same product without empty ranks, and with no more than the matrix has."""
    used = np.any(b, axis=0) & np.any(a, axis=1)
    used[0] |= not used.any()  # a factor has at least one
    b, a = b[:, used], a[used]
    out, rank = b.shape
    if rank <= min(out, a.shape[1]):
        return LoraFactor(b, a, 1.0)
    product = (b.astype(np.float64) @ a.astype(np.float64)).astype(np.float32)
    if out <= a.shape[1]:
        return LoraFactor(np.eye(out, dtype=np.float32), product, 1.0)
    return LoraFactor(product, np.eye(a.shape[1], dtype=np.float32), 1.0)


def _energy(array: np.ndarray) -> float:
    flat = array.reshape(-1).astype(np.float64, copy=False)
    return float(flat @ flat)
