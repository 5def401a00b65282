"""Families that have Llama's layers with other switches: Mistral, Qwen2 and Qwen3.

Qwen2 is also the family of Qwen2.5. Mixtures of experts and models with images are
families of their own, which are not read.

Sources: Mistral (arXiv 2310.06825), Qwen2 (2407.10671), Qwen3 (2505.09388); checked
against `transformers`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import PositiveInt

from cycleqd_jax.models.llama.config import ONLY_SILU, LlamaConfig

_SLIDING, _FULL = "sliding_attention", "full_attention"
# `transformers` ignores these settings in files of these families.
_NO_BIAS = {"attention_bias": False, "mlp_bias": False}
LayerTypes = Annotated[
    tuple[Literal["sliding_attention", "full_attention"], ...],
    pydantic.Field(strict=False),
]


class MistralConfig(LlamaConfig):
    """Sizes and constants of one Mistral model.

    Attributes:
      sliding_window: how many tokens each query sees, its own included; None for all.
    """

    architecture: ClassVar[str] = "MistralForCausalLM"
    only_values: ClassVar[Mapping[str, tuple[Any, ...]]] = ONLY_SILU

    model_type: Literal["mistral"] = "mistral"
    num_key_value_heads: PositiveInt = 8
    max_position_embeddings: PositiveInt = 131072
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    sliding_window: PositiveInt | None = None

    @classmethod
    def own_from_hf(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """The window of a file that does not tell is 4096, as in `transformers`."""
        return _NO_BIAS | {"sliding_window": data.get("sliding_window", 4096)}

    def window(self, layer: int) -> int | None:
        """As `LlamaConfig.window`."""
        return self.sliding_window


class Qwen2Config(LlamaConfig):
    """Sizes and constants of one Qwen2 or Qwen2.5 model: q, k and v have biases.

    Attributes:
      sliding_window: how many tokens a query of some layers sees, its own included;
        None if every layer sees all.
      layer_types: per layer, whether it has that window; None without one.
    """

    architecture: ClassVar[str] = "Qwen2ForCausalLM"
    only_values: ClassVar[Mapping[str, tuple[Any, ...]]] = ONLY_SILU

    model_type: Literal["qwen2"] = "qwen2"
    num_key_value_heads: PositiveInt = 32
    max_position_embeddings: PositiveInt = 32768
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    sliding_window: PositiveInt | None = None
    layer_types: LayerTypes | None = None

    @pydantic.model_validator(mode="after")
    def _one_type_per_layer(self) -> Self:
        layers = self.num_hidden_layers
        if self.layer_types is not None and len(self.layer_types) != layers:
            raise ValueError(
                f"layer_types must name {layers} layers (num_hidden_layers), but names "
                f"{len(self.layer_types)}"
            )
        return self

    @classmethod
    def own_from_hf(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """As in `transformers`, `use_sliding_window` rules over `sliding_window`."""
        return _NO_BIAS | _windows_from_hf(data)

    def window(self, layer: int) -> int | None:
        """As `LlamaConfig.window`."""
        is_full = self.layer_types is None or self.layer_types[layer] == _FULL
        return None if is_full else self.sliding_window

    def has_bias(self, linear: str) -> bool:
        """As `LlamaConfig.has_bias`."""
        return linear in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

    def to_hf(self) -> dict[str, Any]:
        """As `LlamaConfig.to_hf`."""
        layers = self.num_hidden_layers
        types = self.layer_types or (_FULL,) * layers
        return super().to_hf() | {
            "layer_types": list(types),
            "use_sliding_window": self.sliding_window is not None,
            "max_window_layers": types.index(_SLIDING) if _SLIDING in types else layers,
        }


class Qwen3Config(Qwen2Config):
    """Sizes and constants of one Qwen3 model: norms per head, no biases by default."""

    architecture: ClassVar[str] = "Qwen3ForCausalLM"
    head_norms: ClassVar[bool] = True

    model_type: Literal["qwen3"] = "qwen3"
    head_dim: PositiveInt = 128
    attention_bias: bool = False

    @classmethod
    def own_from_hf(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """As `Qwen2Config.own_from_hf`, with the attention's biases."""
        found = super().own_from_hf(data)
        return found | {"attention_bias": data.get("attention_bias") or False}

    def has_bias(self, linear: str) -> bool:
        """As `LlamaConfig.has_bias`."""
        return LlamaConfig.has_bias(self, linear)


def _windows_from_hf(data: Mapping[str, Any]) -> dict[str, Any]:
    none = {"sliding_window": None, "layer_types": None}
    is_used = data.get("use_sliding_window", False)
    window = data.get("sliding_window", 4096) if is_used else None
    layers, first = data.get("num_hidden_layers"), data.get("max_window_layers", 28)
    types = data.get("layer_types")
    if not (isinstance(layers, int) and isinstance(first, int)):
        return none  # the first is refused for itself
    if types is None:
        full = layers if window is None else min(first, layers)
        types = [_FULL] * full + [_SLIDING] * (layers - full)
    if types == [_FULL] * layers:
        return none
    if window is None and isinstance(types, list) and _SLIDING in types:
        raise ValueError(
            f"layer_types has {_SLIDING!r}, but use_sliding_window and sliding_window "
            "give no window"
        )
    return {"sliding_window": window, "layer_types": types}
