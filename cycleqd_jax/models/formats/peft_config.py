"""The `adapter_config.json` of a LoRA adapter: its modules, ranks and scales."""

import collections
import math
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

import pydantic
from pydantic import PositiveInt

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.locate import is_hub_name
from cycleqd_jax.models.validated import parse, read_object

Alpha = Annotated[float, pydantic.Field(allow_inf_nan=False)]
# JSON has lists, which strict validation would refuse for a tuple.
Names = Annotated[tuple[str, ...], pydantic.Field(strict=False)]
Layers = Annotated[tuple[int, ...], pydantic.Field(strict=False)]

# Settings that do not change what a trained adapter adds: labels, and how it was
# trained. PEFT ignores fan_in_fan_out where the adapted layer is linear; ms-swift adds
# the settings that begin with "lora_dtype" and "lorap".
_HARMLESS = {
    *("peft_version", "peft_type", "task_type", "auto_mapping", "revision"),
    *("base_model_name_or_path", "inference_mode", "lora_dropout", "megatron_core"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("runtime_config", "qalora_group_size", "ensure_weight_tying"),
    *("fan_in_fan_out", "lora_dtype", "lorap_lr_ratio", "lorap_emb_lr"),
}
# Other settings must be absent, empty or have these values.
_NEUTRAL = {"bias": "none", "layers_pattern": "layers"}
# Tables of Segment Anything, which uses them as they are: PEFT would write factors for
# them, but its forward pass would not see them.
_TABLE = re.compile(
    r"(.*\.)?(iou_token|mask_tokens|no_mask_embed|not_a_point_embed|point_embed\.\d+)"
)
# Initialisations that leave the base as it is. Others (PiSSA, OLoRA, CorDA, LoftQ,
# LoRA-GA) change the base weights too, so the adapter alone is not the model.
_PURE_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


class AdapterConfig(pydantic.BaseModel, frozen=True, strict=True):
    """The part of PEFT's LoraConfig that decides the sum `W + scale B A`.

    Attributes:
      r: rank of modules without a pattern.
      lora_alpha: numerator of the scale of modules without a pattern.
      target_modules: names (or endings of names) of modules, or one regular
        expression, or "all-linear".
      use_rslora: whether the scale is alpha / sqrt(r) instead of alpha / r.
      rank_pattern: ranks by regular expression of (the end of) a module's name.
      alpha_pattern: alphas likewise.
      exclude_modules: like `target_modules`; never adapted.
      modules_to_save: modules that are replaced whole.
      layers_to_transform: layers adapted, or None for all.
    """

    r: PositiveInt = 8
    lora_alpha: Alpha = 8.0
    target_modules: str | Names = ()
    use_rslora: bool = False
    rank_pattern: dict[str, PositiveInt] = {}
    alpha_pattern: dict[str, Alpha] = {}
    exclude_modules: str | Names = ()
    modules_to_save: Names = ()
    layers_to_transform: Layers | None = None

    @pydantic.model_validator(mode="after")
    def _patterns_compile(self) -> Self:
        expressions = [*self.rank_pattern, *self.alpha_pattern]
        for names in (self.target_modules, self.exclude_modules):
            expressions += [names] if isinstance(names, str) else []
        for expression in expressions:
            try:
                re.compile(expression)
            except re.error as err:
                raise ValueError(
                    f"{expression!r} is not a regular expression: {err}"
                ) from err
        return self

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "AdapterConfig":
        """Reads an `adapter_config.json`.

        Raises:
          BadInputError: if it is missing or malformed, or asks for another kind of
            adapter (DoRA, IA3, ...); names the setting and its value.
        """
        data = read_object(path)
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
        init = data.pop("init_lora_weights", None)
        if (init.lower() if isinstance(init, str) else init) not in _PURE_INITS:
            raise BadInputError(
                f"{path}: init_lora_weights = {init!r} changes the base weights, so "
                "this adapter alone is not the model; save it with PEFT's "
                "path_initial_model_for_weight_conversion first"
            )
        for name, value in data.items():
            if name in cls.model_fields or name in _HARMLESS or not value:
                continue
            if value not in (_NEUTRAL.get(name), [_NEUTRAL.get(name)]):
                raise BadInputError(
                    f"{path}: {name} = {value!r} is not supported; only plain LoRA is"
                )
        given = {
            name: data[name]
            for name in cls.model_fields
            if data.get(name) is not None or name in data.keys() & {"r", "lora_alpha"}
        }
        layers = given.get("layers_to_transform")
        if isinstance(layers, int):
            given["layers_to_transform"] = (layers,)
        elif layers == []:
            del given["layers_to_transform"]
        return parse(cls, given, path)

    @classmethod
    def describing(cls, modules: Mapping[str, tuple[int, float]]) -> "AdapterConfig":
        """The settings under which PEFT gives each module its rank and scale.

        Args:
          modules: (rank, scale) by full module name.

        Returns:
          The settings; the most common rank and alpha are the defaults, others
          patterns.

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

    def to_json(
        self, base_name: str, task_type: str | None = "CAUSAL_LM"
    ) -> dict[str, Any]:
        """The content of an `adapter_config.json` that PEFT reads.

        Args:
          base_name: the base model's path or hub name `org/name@revision`.
          task_type: PEFT's name for what the base model is; None for no such thing.

        Returns:
          A JSON-ready dict.
        """
        alpha = self.lora_alpha
        hub = is_hub_name(base_name)
        name, _, revision = base_name.partition("@") if hub else (base_name, "", "")
        return {
            "peft_type": "LORA",
            "task_type": task_type,
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
            "rank_pattern": self.rank_pattern,
            "alpha_pattern": self.alpha_pattern,
            "modules_to_save": None,
        }

    def rank(self, module: str) -> int:
        """The rank of a module's factors."""
        return self.rank_pattern.get(_pattern(self.rank_pattern, module), self.r)

    def scale(self, module: str) -> float:
        """The factor on `B A`."""
        alphas, rank = self.alpha_pattern, self.rank(module)
        alpha = alphas.get(_pattern(alphas, module), self.lora_alpha)
        return float(alpha / (math.sqrt(rank) if self.use_rslora else rank))

    def targets(self, module: str) -> bool:
        """True if a module of the base model is adapted, by PEFT's own rules."""
        if _listed(self.exclude_modules, module):
            return False
        for name in self.modules_to_save:
            if re.match(rf"(^|.*\.){re.escape(name)}($|\..*)", module):
                return False
        if self.target_modules == "all-linear":
            last = module.rpartition(".")[2]
            return last not in ("lm_head", "embed_tokens") and not is_table(module)
        if not _listed(self.target_modules, module):
            return False
        named_whole = module in self.target_modules
        if isinstance(self.target_modules, str) or named_whole:
            return True
        if self.layers_to_transform is None:
            return True
        layer = re.match(r".*?\.[^.]*\.(\d+)\.", module)
        return layer is not None and int(layer[1]) in self.layers_to_transform

    def saves(self, module: str) -> bool:
        """True if a module or one around it is replaced; PEFT compares name ends."""
        parts = module.split(".")
        around = (".".join(parts[:i]) for i in range(1, len(parts) + 1))
        return any(name.endswith(self.modules_to_save) for name in around)


def is_table(module: str) -> bool:
    """True for the name of a table that no adapter can change."""
    return _TABLE.fullmatch(module) is not None


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
    """Names like "q_proj" if every layer has them, else full names."""
    parts = [re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name) for name in modules]
    if all(parts):
        layers = {int(part[1]) for part in parts}
        kinds = {part[2] for part in parts}
        whole = layers == set(range(len(layers)))
        if whole and len(layers) * len(kinds) == len(modules):
            return tuple(sorted(kind.rpartition(".")[2] for kind in kinds))
    return tuple(sorted(modules))
