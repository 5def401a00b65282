"""The sizes and constants of a Llama model, in and out of a Hugging Face `config.json`.

`LlamaConfig.weight_shapes` is the one list of weight names and shapes that loading,
adapters, merging and export agree on.
"""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import pydantic
from pydantic import PositiveInt

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import EMBEDDING, HEAD
from cycleqd_jax.models.llama.rope_config import Positive, RopeScaling, rope_from_hf
from cycleqd_jax.models.validated import parse

# Settings of a config.json that would change the model's arithmetic, with the values
# that this model computes.
ONLY_SILU = {"hidden_act": ("silu", "swish")}  # two names of one function
_NO_WINDOW = {"sliding_window": (None,), "use_sliding_window": (False,)}


class LlamaConfig(pydantic.BaseModel, frozen=True, strict=True, extra="forbid"):
    """Sizes and constants of one Llama model; see `base.ModelConfig` for the sizes.

    `relatives` has families with the same layers, which override what differs.

    Attributes:
      architecture: the name of the model's class in `transformers`.
      only_values: settings of a `config.json`, with the values that are computed.
      head_norms: whether the queries and keys of each head are normed.
      rope_theta: base period of the rotary embedding.
      rope_scaling: None for plain rotary embeddings.
      rms_norm_eps: added to the mean square in every norm.
      attention_bias: whether q, k, v and o have biases.
      mlp_bias: whether gate, up and down have biases.
    """

    architecture: ClassVar[str] = "LlamaForCausalLM"
    only_values: ClassVar[Mapping[str, tuple[Any, ...]]] = ONLY_SILU | _NO_WINDOW
    head_norms: ClassVar[bool] = False

    model_type: Literal["llama"] = "llama"
    vocab_size: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    # The limit keeps a damaged file from asking for billions of weight names.
    num_hidden_layers: int = pydantic.Field(ge=1, le=10_000)
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt
    rope_theta: Positive = 10000.0
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: Positive = 1e-6
    max_position_embeddings: PositiveInt = 2048
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    @pydantic.model_validator(mode="after")
    def _sizes_fit_together(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple "
                f"of num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even, but is {self.head_dim}")
        scaling = self.rope_scaling
        if scaling is None:
            return self
        for name in ("short_factor", "long_factor"):
            given = getattr(scaling, name)
            if given is not None and len(given) != self.head_dim // 2:
                raise ValueError(
                    f"rope_scaling.{name} must hold {self.head_dim // 2} numbers (half "
                    f"a head), but holds {len(given)}"
                )
        if scaling.rope_type == "dynamic" and self.head_dim < 4:
            raise ValueError(
                f"head_dim must be 4 or more for dynamic rope, but is {self.head_dim}"
            )
        if scaling.rope_type == "yarn" and self.rope_theta <= 1:
            raise ValueError(
                f"rope_theta must be above 1 for yarn, but is {self.rope_theta}"
            )
        return self

    @classmethod
    def from_hf(cls, data: Mapping[str, Any], source: str = "config.json") -> Self:
        """Reads a parsed `config.json`; defaults are those of `transformers`.

        Rotary parameters may be in `rope_parameters` (transformers 5) or in
        `rope_theta` and `rope_scaling` (earlier versions).

        Args:
          data: the parsed file.
          source: where it came from, for error messages.

        Raises:
          BadInputError: if a setting is missing, malformed or asks for arithmetic that
            this model does not do; names the setting and its value.
        """
        for name, known in cls.only_values.items():
            value = data.get(name)
            if value is not None and value not in known:
                raise BadInputError(
                    f"{source}: {name} = {value!r} is not supported; this model "
                    f"computes only {known[0]!r}"
                )
        if data.get("quantization_config"):
            raise BadInputError(
                f"{source}: has a quantization_config; quantised weights are not read, "
                "so give the model in bfloat16, as it was before quantisation"
            )
        fields = cls.model_fields
        given = {name: data[name] for name in fields if name in data}
        given = {name: value for name, value in given.items() if value is not None}
        width, heads = given.get("hidden_size"), given.get("num_attention_heads")

        def is_derived(name: str) -> bool:  # a family may have a default of its own
            return name not in given and (fields[name].is_required() or name in data)

        if is_derived("num_key_value_heads"):
            given["num_key_value_heads"] = heads
        if is_derived("head_dim") and _is_count(width) and _is_count(heads):
            given["head_dim"] = width // heads
        try:
            given |= rope_from_hf(data, fields["max_position_embeddings"].default)
            given |= cls.own_from_hf(data)
        except ValueError as err:
            raise BadInputError(f"{source}: {err}") from err
        return parse(cls, given, source)

    @classmethod
    def own_from_hf(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that a family reads in its own way.

        Raises:
          ValueError: one is malformed or not supported.
        """
        return {}

    def window(self, layer: int) -> int | None:
        """The number of tokens that a query of a layer sees; None for all."""
        return None

    def has_bias(self, linear: str) -> bool:
        """True for a linear layer with a bias, by its name in a decoder layer."""
        return self.mlp_bias if linear.startswith("mlp") else self.attention_bias

    def to_hf(self) -> dict[str, Any]:
        """The settings of a `config.json`, rotary parameters in both spellings.

        Token ids and dtype are not part of the config.

        Returns:
          A JSON-ready dict; `from_hf(to_hf()) == self`.
        """
        scaling = None
        if self.rope_scaling is not None:
            scaling = self.rope_scaling.model_dump(mode="json", exclude_defaults=True)
            if self.rope_scaling.rope_type == "yarn":
                scaling.setdefault("factor", None)  # transformers wants the key
        return {
            **self.model_dump(mode="json"),
            "architectures": [self.architecture],
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "pretraining_tp": 1,
            "use_cache": True,
            "rope_scaling": scaling,
            "rope_parameters": {
                **(scaling or {"rope_type": "default"}),
                "rope_theta": self.rope_theta,
            },
        }

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight's Hugging Face name and shape; matrices are `[out, in]`.

        Returns:
          A fresh dict in the model's order; without `lm_head.weight` if tied.
        """
        return dict(_weight_shapes(self))


@functools.lru_cache(maxsize=8)
def _weight_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    width, ffn = config.hidden_size, config.intermediate_size
    q_width = config.num_attention_heads * config.head_dim
    kv_width = config.num_key_value_heads * config.head_dim
    linears = {
        "self_attn.q_proj": (q_width, width),
        "self_attn.k_proj": (kv_width, width),
        "self_attn.v_proj": (kv_width, width),
        "self_attn.o_proj": (width, q_width),
        "mlp.gate_proj": (ffn, width),
        "mlp.up_proj": (ffn, width),
        "mlp.down_proj": (width, ffn),
    }
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, width)}
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        for name, shape in linears.items():
            shapes[f"{prefix}{name}.weight"] = shape
            if config.has_bias(name):
                shapes[f"{prefix}{name}.bias"] = shape[:1]
        if config.head_norms:
            shapes[f"{prefix}self_attn.q_norm.weight"] = (config.head_dim,)
            shapes[f"{prefix}self_attn.k_norm.weight"] = (config.head_dim,)
        shapes[f"{prefix}input_layernorm.weight"] = (width,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (width,)
    shapes["model.norm.weight"] = (width,)
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.vocab_size, width)
    return shapes


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value > 0
