"""The `adapter_config.json` of a LoRA adapter: its modules, ranks and scales."""

import collections
import dataclasses
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.locate import is_hub_name

# Settings that have no bearing on what a trained adapter adds.
_HARMLESS = {
    *("peft_version", "peft_type", "task_type", "auto_mapping", "revision"),
    *("base_model_name_or_path", "inference_mode", "lora_dropout", "megatron_core"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("runtime_config", "qalora_group_size", "ensure_weight_tying"),
}
# Initialisations that leave the base as it is; the others (PiSSA, OLoRA, CorDA, LoftQ,
# LoRA-GA) change the base weights too, so the adapter alone does not tell the model.
_PURE_INITS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """What of PEFT's LoraConfig decides the sum `W + scale B A`.

    Attributes:
      r: rank, where no pattern says otherwise.
      lora_alpha: numerator of the scale, where no pattern says otherwise.
      target_modules: names (or endings of names) of modules, or one regular
        expression, or "all-linear".
      use_rslora: whether the scale is alpha / sqrt(r) instead of alpha / r.
      rank_pattern: ranks by (regular expression of the end of) module name.
      alpha_pattern: alphas likewise.
      exclude_modules: like `target_modules`; never adapted.
      modules_to_save: modules that are replaced whole.
      layers_to_transform: layers adapted, or None for all.
    """

    r: int
    lora_alpha: float
    target_modules: tuple[str, ...] | str
    use_rslora: bool = False
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)
    exclude_modules: tuple[str, ...] | str = ()
    modules_to_save: tuple[str, ...] = ()
    layers_to_transform: tuple[int, ...] | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "AdapterConfig":
        """Reads an `adapter_config.json`.

        Args:
          path: the file.

        Returns:
          The settings.

        Raises:
          BadInputError: if it is missing or malformed, or asks for another kind of
            adapter (DoRA, IA3, ...); names the setting and its value.
        """
        data = safetensors.read_json(path)
        kind = data.get("peft_type")
        if kind != "LORA":
            raise BadInputError(
                f"{path}: peft_type {kind!r} is not supported; only LORA adapters load "
                "(merge others into their base and give the full model)"
            )
        if data.get("use_dora"):
            raise BadInputError(
                f"{path}: use_dora is not supported: DoRA rescales the base weights; "
                "merge the adapter into its base and give the full model"
            )
        _check_rest(data, path)

        def get(name: str, kind: type | tuple[type, ...], default: Any) -> Any:
            value = data.get(name)
            value = default if value is None else value
            wrong = isinstance(value, bool) and kind is not bool
            if wrong or not isinstance(value, kind):
                raise BadInputError(f"{path}: {name} is malformed: {value!r}")
            return value

        layers = data.get("layers_to_transform")
        layers = [layers] if isinstance(layers, int) else layers or None
        if layers and not all(isinstance(layer, int) for layer in layers):
            raise BadInputError(f"{path}: layers_to_transform is malformed: {layers!r}")
        settings = cls(
            r=get("r", int, 8),
            lora_alpha=get("lora_alpha", (int, float), 8),
            target_modules=_names(get("target_modules", (str, list), [])),
            use_rslora=get("use_rslora", bool, False),
            rank_pattern=get("rank_pattern", dict, {}),
            alpha_pattern=get("alpha_pattern", dict, {}),
            exclude_modules=_names(get("exclude_modules", (str, list), [])),
            modules_to_save=_names(get("modules_to_save", list, [])),
            layers_to_transform=None if layers is None else tuple(layers),
        )
        settings._check(path)
        return settings

    @classmethod
    def describing(cls, modules: Mapping[str, tuple[int, float]]) -> "AdapterConfig":
        """The settings under which PEFT gives each module its rank and scale.

        Args:
          modules: (rank, scale) by full module name.

        Returns:
          The settings; the commonest rank and alpha are the defaults, others patterns.

        Raises:
          BadInputError: if there are no modules.
        """
        if not modules:
            raise BadInputError("a LoRA adapter needs at least one factor, got none")
        alphas = {name: scale * rank for name, (rank, scale) in modules.items()}
        ranks = {name: rank for name, (rank, _) in modules.items()}
        rank, alpha = (
            collections.Counter(d.values()).most_common(1)[0][0]
            for d in (ranks, alphas)
        )
        return cls(
            r=rank,
            lora_alpha=alpha,
            target_modules=_short_names(modules),
            rank_pattern={n: r for n, r in sorted(ranks.items()) if r != rank},
            alpha_pattern={n: a for n, a in sorted(alphas.items()) if a != alpha},
        )

    def to_json(self, base_name: str) -> dict[str, Any]:
        """The content of an `adapter_config.json` that PEFT reads.

        Args:
          base_name: the base model's path or hub name `org/name@revision`.

        Returns:
          A JSON-ready dict.
        """
        alpha = self.lora_alpha
        hub = is_hub_name(base_name)
        name, _, revision = base_name.partition("@") if hub else (base_name, "", "")
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": name,
            "revision": revision or None,
            "inference_mode": True,
            "r": self.r,
            "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
            "lora_dropout": 0.0,
            "target_modules": list(self.target_modules),
            "use_rslora": self.use_rslora,
            "use_dora": False,
            "fan_in_fan_out": False,
            "bias": "none",
            "rank_pattern": dict(self.rank_pattern),
            "alpha_pattern": dict(self.alpha_pattern),
            "modules_to_save": None,
        }

    def rank(self, module: str) -> int:
        """The rank of a module's factors."""
        return self.rank_pattern.get(_pattern(self.rank_pattern, module), self.r)

    def scale(self, module: str) -> float:
        """What `B A` is multiplied by."""
        alphas, rank = self.alpha_pattern, self.rank(module)
        alpha = alphas.get(_pattern(alphas, module), self.lora_alpha)
        return float(alpha / (math.sqrt(rank) if self.use_rslora else rank))

    def targets(self, module: str) -> bool:
        """Whether a module of the base model is adapted, by PEFT's own rules."""
        if _listed(self.exclude_modules, module):
            return False
        for name in self.modules_to_save:
            if re.match(rf"(^|.*\.){re.escape(name)}($|\..*)", module):
                return False
        if self.target_modules == "all-linear":
            return module not in ("lm_head", "model.embed_tokens")
        if isinstance(self.target_modules, str) or module in self.target_modules:
            return _listed(self.target_modules, module)
        if not _listed(self.target_modules, module):
            return False
        if self.layers_to_transform is None:
            return True
        layer = re.match(r".*?\.[^.]*\.(\d+)\.", module)
        return layer is not None and int(layer[1]) in self.layers_to_transform

    def saves(self, module: str) -> bool:
        """Whether a module is replaced whole; PEFT compares the ends of names."""
        return module.endswith(self.modules_to_save)

    def _check(self, path: Any) -> None:
        ranks = {"r": self.r, **self.rank_pattern}
        alphas = {"lora_alpha": self.lora_alpha, **self.alpha_pattern}
        for name, value in ranks.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadInputError(
                    f"{path}: rank of {name!r} must be a positive integer, got "
                    f"{value!r}"
                )
        for name, value in alphas.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                raise BadInputError(
                    f"{path}: alpha of {name!r} must be a number, got {value!r}"
                )
        patterns = [*self.rank_pattern, *self.alpha_pattern]
        for names in (self.target_modules, self.exclude_modules):
            patterns += [names] if isinstance(names, str) else []
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as err:
                raise BadInputError(
                    f"{path}: {pattern!r} is not a regular expression: {err}"
                ) from err


def _check_rest(data: Mapping[str, Any], path: Any) -> None:
    known = {field.name for field in dataclasses.fields(AdapterConfig)} | _HARMLESS
    neutral = {"bias": "none", "init_lora_weights": None, "layers_pattern": "layers"}
    if data.get("init_lora_weights") not in _PURE_INITS:
        raise BadInputError(
            f"{path}: init_lora_weights = {data['init_lora_weights']!r} changes the "
            "base weights, so this adapter alone is not the model; save it with PEFT's "
            "path_initial_model_for_weight_conversion first"
        )
    for name, value in data.items():
        if name in known or name == "init_lora_weights" or not value:
            continue
        if value not in (neutral.get(name), [neutral.get(name)]):
            raise BadInputError(
                f"{path}: {name} = {value!r} is not supported; only plain LoRA is"
            )


def _names(given: str | list[Any]) -> tuple[str, ...] | str:
    return given if isinstance(given, str) else tuple(str(name) for name in given)


def _listed(names: tuple[str, ...] | str, module: str) -> bool:
    if isinstance(names, str):
        return bool(names) and re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _pattern(patterns: Mapping[str, Any], module: str) -> str | None:
    """The first pattern that matches the end of a module's name, as PEFT chooses."""
    for pattern in patterns:
        if re.match(rf"(.*\.)?({pattern})$", module):
            return pattern
    return None


def _short_names(modules: Mapping[str, Any]) -> tuple[str, ...]:
    """Names like "q_proj" where every layer has them, else full names."""
    parts = [re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name) for name in modules]
    if all(parts):
        layers = {int(part[1]) for part in parts}
        kinds = {part[2] for part in parts}
        whole = layers == set(range(len(layers)))
        if whole and len(layers) * len(kinds) == len(modules):
            return tuple(sorted(kind.rpartition(".")[2] for kind in kinds))
    return tuple(sorted(modules))
