"""Settings of proposing: selection, crossover and mutation."""

import dataclasses

SELECTIONS = ("elite", "elite_ref", "random")
CROSSOVERS = ("linear",)
MUTATIONS = ("svd", "svd_child", "svd_scale", "gaussian", "none")


@dataclasses.dataclass(frozen=True)
class ProposeSettings:
    """Settings of selection, crossover and mutation; defaults are the paper's.

    Attributes:
      flip_interval: generations an archive stays active, >= 1.
      selection: "elite", "elite_ref" or "random", see `selection.py`.
      alpha_low: see `selection.py`; > 0.
      alpha_high: see `selection.py`; >= alpha_low.
      crossover: "linear", or the import path of one's own.
      crossover_mean: mean of a raw crossover weight, > 0.
      crossover_std: its standard deviation, 0 to 0.2 of the mean.
      mutation: "svd", "svd_child", "svd_scale", "gaussian", "none", or the import path
        of one's own.
      w_max: largest mutation step, as a share of a singular value, >= 0.

    Raises:
      ValueError: a value is not allowed.
    """

    flip_interval: int = 1
    selection: str = "elite"
    alpha_low: float = 0.5
    alpha_high: float = 0.8
    crossover: str = "linear"
    crossover_mean: float = 1.0
    crossover_std: float = 0.03
    mutation: str = "svd"
    w_max: float = 0.3

    def __post_init__(self) -> None:
        checks = {
            "flip_interval": (self.flip_interval >= 1, "at least 1"),
            "selection": (self.selection in SELECTIONS, f"one of {SELECTIONS}"),
            "alpha_low": (self.alpha_low > 0, "above 0"),
            "alpha_high": (self.alpha_high >= self.alpha_low, "at least alpha_low"),
            "crossover": (
                ":" in self.crossover or self.crossover in CROSSOVERS,
                f"one of {CROSSOVERS} or an import path",
            ),
            "crossover_mean": (self.crossover_mean > 0, "above 0"),
            "crossover_std": (
                0 <= self.crossover_std <= 0.2 * self.crossover_mean,
                "0 to 0.2 times crossover_mean",
            ),
            "mutation": (
                ":" in self.mutation or self.mutation in MUTATIONS,
                f"one of {MUTATIONS} or an import path",
            ),
            "w_max": (self.w_max >= 0, "at least 0"),
        }
        for name, (allowed, expected) in checks.items():
            if not allowed:
                raise ValueError(
                    f"{name}: expected {expected}, got {getattr(self, name)!r}."
                )

    @property
    def own_crossover(self) -> str | None:
        """The import path of a crossover of one's own."""
        return self.crossover if ":" in self.crossover else None

    @property
    def own_mutation(self) -> str | None:
        """The import path of a mutation of one's own."""
        return self.mutation if ":" in self.mutation else None

    @property
    def needs_cores(self) -> bool:
        """Whether genomes must be in core form."""
        return self.mutation in ("svd_child", "svd_scale")

    @property
    def has_noise(self) -> bool:
        """Whether genomes hold Gaussian noise."""
        return self.mutation == "gaussian"
