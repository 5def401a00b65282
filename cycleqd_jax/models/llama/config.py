"""The sizes and constants of a Llama model, in and out of a Hugging Face `config.json`.

`LlamaConfig.weight_shapes` is the one list of weight names and shapes that loading,
adapters, merging and export agree on.
"""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import PositiveInt

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import EMBEDDING, HEAD
from cycleqd_jax.models.validated import parse

Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
Positives = Annotated[tuple[Positive, ...], pydantic.Field(strict=False)]

# Settings of a config.json that would change the model's arithmetic, with the values
# that this model computes.
_ONLY_VALUES = {
    "hidden_act": ("silu", "swish"),  # two names of one function
    "sliding_window": (None,),
    "use_sliding_window": (False,),
}
# Needed parameters by kind of scaling, as in transformers' `modeling_rope_utils`. yarn
# and longrope use the ratio of the two context lengths if there is no factor.
_NEEDED_BY_ROPE_TYPE = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("original_max_position_embeddings",),
    "longrope": ("short_factor", "long_factor", "original_max_position_embeddings"),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
    "proportional": (),
}


class RopeScaling(pydantic.BaseModel, frozen=True, strict=True):
    """Hugging Face's parameters for scaling the rotary frequencies.

    `models.llama.rope` says what each kind computes. All factors are dimensionless.

    Attributes:
      rope_type: the kind.
      factor: how many times longer the context is than the original one.
      original_max_position_embeddings: the original context, in tokens.
      low_freq_factor: llama3: wavelengths above context / this are stretched.
      high_freq_factor: llama3: wavelengths below context / this are kept.
      short_factor: longrope: divisor per channel pair, up to the original context.
      long_factor: longrope: likewise, beyond the original context.
      attention_factor: yarn, longrope: factor on cosines and sines.
      beta_fast: yarn: channels with more turns per context than this are kept.
      beta_slow: yarn: channels with fewer turns per context than this are stretched.
      mscale: yarn: weight in the default attention factor's numerator.
      mscale_all_dim: yarn: weight in its denominator.
      truncate: yarn: whether the two bounds are rounded to whole channels.
      partial_rotary_factor: proportional: share of the head that is rotated.
    """

    rope_type: Literal[
        "linear", "dynamic", "yarn", "longrope", "llama3", "proportional"
    ]
    factor: Positive | None = None
    original_max_position_embeddings: int | None = pydantic.Field(None, ge=2)
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    short_factor: Positives | None = None
    long_factor: Positives | None = None
    attention_factor: Positive | None = None
    beta_fast: Positive | None = None
    beta_slow: Positive | None = None
    mscale: Positive | None = None
    mscale_all_dim: Positive | None = None
    truncate: bool = True
    partial_rotary_factor: Positive = 1.0

    @pydantic.model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        for name in _NEEDED_BY_ROPE_TYPE[self.rope_type]:
            if getattr(self, name) is None:
                raise ValueError(f"rope_type {self.rope_type!r} needs {name}")
        if self.partial_rotary_factor != 1 and self.rope_type != "proportional":
            raise ValueError(_whole_head(self.partial_rotary_factor))
        return self


class LlamaConfig(pydantic.BaseModel, frozen=True, strict=True, extra="forbid"):
    """Sizes and constants of one Llama model; see `base.ModelConfig` for the sizes.

    Attributes:
      rope_theta: base period of the rotary embedding.
      rope_scaling: None for plain rotary embeddings.
      rms_norm_eps: added to the mean square in every norm.
      attention_bias: whether q, k, v and o have biases.
      mlp_bias: whether gate, up and down have biases.
    """

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
        for name, known in _ONLY_VALUES.items():
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
        given = {name: data[name] for name in cls.model_fields if name in data}
        given = {name: value for name, value in given.items() if value is not None}
        width, heads = given.get("hidden_size"), given.get("num_attention_heads")
        given.setdefault("num_key_value_heads", heads)
        if "head_dim" not in given and _is_count(width) and _is_count(heads):
            given["head_dim"] = width // heads
        try:
            given |= _rope_from_hf(data)
        except ValueError as err:
            raise BadInputError(f"{source}: {err}") from err
        return parse(cls, given, source)

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
            "architectures": ["LlamaForCausalLM"],
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
            in_mlp = name.startswith("mlp")
            if config.mlp_bias if in_mlp else config.attention_bias:
                shapes[f"{prefix}{name}.bias"] = shape[:1]
        shapes[f"{prefix}input_layernorm.weight"] = (width,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (width,)
    shapes["model.norm.weight"] = (width,)
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.vocab_size, width)
    return shapes


def _rope_from_hf(data: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` of a parsed config.json of either spelling."""
    # rope_scaling wins if a file has both, as in transformers.
    given = data.get("rope_scaling") or data.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"rope parameters must be an object, but are {given!r}")
    found = {name: value for name, value in given.items() if value is not None}
    theta = found.pop("rope_theta", data.get("rope_theta"))
    theta = 10000.0 if theta is None else theta
    kind = found.pop("type", "default")
    kind = found.setdefault("rope_type", kind)
    if data.get("partial_rotary_factor") is not None:
        found.setdefault("partial_rotary_factor", data["partial_rotary_factor"])
    if kind == "default":
        if found.get("partial_rotary_factor", 1) != 1:
            raise ValueError(_whole_head(found["partial_rotary_factor"]))
        return {"rope_theta": theta, "rope_scaling": None}
    context = "original_max_position_embeddings"
    if context in _NEEDED_BY_ROPE_TYPE.get(str(kind), ()):
        # The value beside rope_scaling wins, as in transformers (Phi-3's spelling).
        found.setdefault(context, data.get("max_position_embeddings", 2048))
        if data.get(context) is not None:
            found[context] = data[context]
    return {"rope_theta": theta, "rope_scaling": found}


def _whole_head(share: object) -> str:
    return f"partial_rotary_factor = {share!r} is not supported; it must be 1"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value > 0
