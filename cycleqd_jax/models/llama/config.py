"""The shape of a Llama model, read from and written as a Hugging Face `config.json`.

`LlamaConfig.weight_shapes` is the one list of weight names and shapes that loading,
adapters, merging and export agree on: Hugging Face's names, matrices `[out, in]`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.llama.rope_settings import check_rope, rope_from_hf, rope_to_hf

# Settings of a config.json that would change the model's arithmetic, with the only
# value this model computes.
_ONLY_VALUES = {
    "hidden_act": "silu",
    "pretraining_tp": 1,
    "sliding_window": None,
    "use_sliding_window": False,
    "quantization_config": None,
}
_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
_MAX_LAYERS = 10_000  # so that a damaged file cannot ask for billions of names


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Sizes and constants of one Llama model; hashable.

    Attributes:
      vocab_size: rows of the embedding.
      hidden_size: width of the residual stream.
      intermediate_size: width of the MLP.
      num_hidden_layers: decoder layers.
      num_attention_heads: query heads.
      num_key_value_heads: key and value heads; divides `num_attention_heads`.
      head_dim: width of one head; even.
      rope_theta: base period of the rotary embedding.
      rope_scaling: None for plain rotary embeddings, else Hugging Face's parameters
        with `rope_type`, one of `rope_settings.SCALED_ROPE_TYPES`, and without
        `rope_theta`.
      rms_norm_eps: added to the mean square in every norm.
      max_position_embeddings: longest context, in tokens.
      tie_word_embeddings: whether the head is the embedding (then there is no
        `lm_head.weight`).
      attention_bias: whether q, k, v and o have biases.
      mlp_bias: whether gate, up and down have biases.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False)
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        """Refuses sizes that no Llama can have.

        Raises:
          BadInputError: naming the field, what it must be and what it is.
        """
        for name in (*_REQUIRED, "num_key_value_heads", "head_dim"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadInputError(
                    f"config: {name} must be a positive integer, but is {value!r}"
                )
        if self.num_hidden_layers > _MAX_LAYERS:
            raise BadInputError(
                f"config: num_hidden_layers = {self.num_hidden_layers} is more than "
                f"{_MAX_LAYERS}; the file is damaged"
            )
        _check_positive("max_position_embeddings", self.max_position_embeddings)
        _check_positive("rope_theta", self.rope_theta)
        _check_positive("rms_norm_eps", self.rms_norm_eps)
        if self.num_attention_heads % self.num_key_value_heads:
            raise BadInputError(
                f"config: num_attention_heads ({self.num_attention_heads}) must be a "
                f"multiple of num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim % 2:
            raise BadInputError(
                f"config: head_dim must be even for rotary embeddings, but is "
                f"{self.head_dim}"
            )
        if self.rope_scaling is not None:
            check_rope(self.rope_scaling, self.head_dim, self.rope_theta)

    @classmethod
    def from_hf(
        cls, data: Mapping[str, Any], source: str = "config.json"
    ) -> "LlamaConfig":
        """Reads the parsed `config.json` of a Llama model.

        Rotary parameters may be in `rope_parameters` (transformers 5) or in
        `rope_theta` and `rope_scaling` (before). Defaults are those of
        `transformers.LlamaConfig`.

        Args:
          data: the parsed file.
          source: where it came from, for error messages.

        Returns:
          The config.

        Raises:
          BadInputError: if a needed setting is missing or malformed, or asks for what
            this model does not compute (another `model_type`, an activation other than
            silu, a sliding window, `pretraining_tp` above 1, quantised weights, partial
            rotary embeddings); names the setting, the value and what is supported.
        """
        if not isinstance(data, Mapping):
            raise BadInputError(
                f"{source}: expected a JSON object, got {type(data).__name__}"
            )
        if data.get("model_type") != "llama":
            raise BadInputError(
                f"{source}: model_type must be 'llama', but is "
                f"{data.get('model_type')!r}; only Llama-architecture models load"
            )
        for name, only in _ONLY_VALUES.items():
            value = data.get(name)
            if value is not None and value != only:
                raise BadInputError(
                    f"{source}: {name} = {value!r} is not supported; this model "
                    f"computes only {only!r}"
                )
        missing = [name for name in _REQUIRED if data.get(name) is None]
        if missing:
            raise BadInputError(f"{source}: lacks {', '.join(missing)}")
        heads = data["num_attention_heads"]
        head_dim = data.get("head_dim")
        if head_dim is None:
            if not (_is_count(heads) and _is_count(data["hidden_size"])):
                raise BadInputError(
                    f"{source}: hidden_size and num_attention_heads must be positive "
                    f"integers, but are {data['hidden_size']!r} and {heads!r}"
                )
            head_dim = data["hidden_size"] // heads
        kv_heads = data.get("num_key_value_heads")
        max_positions = data.get("max_position_embeddings", 2048)
        rope_theta, rope_scaling = rope_from_hf(data, max_positions, source)
        try:
            return cls(
                **{name: data[name] for name in _REQUIRED},
                num_key_value_heads=heads if kv_heads is None else kv_heads,
                head_dim=head_dim,
                rope_theta=rope_theta,
                rope_scaling=rope_scaling,
                rms_norm_eps=data.get("rms_norm_eps", 1e-6),
                max_position_embeddings=max_positions,
                tie_word_embeddings=bool(data.get("tie_word_embeddings", False)),
                attention_bias=bool(data.get("attention_bias", False)),
                mlp_bias=bool(data.get("mlp_bias", False)),
            )
        except BadInputError as err:
            raise BadInputError(f"{source}: {err}") from err

    def to_hf(self) -> dict[str, Any]:
        """The settings of a `config.json`, with rotary parameters in both spellings.

        Token ids and dtype are not the config's to know; `io.export` adds them.

        Returns:
          A JSON-ready dict; `from_hf(to_hf()) == self`.
        """
        data = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "pretraining_tp": 1,
            "use_cache": True,
        }
        for field in dataclasses.fields(self):
            if not field.name.startswith("rope_"):
                data[field.name] = getattr(self, field.name)
        return data | rope_to_hf(self.rope_theta, self.rope_scaling)

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
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, width)
    }
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        for name, shape in linears.items():
            shapes[f"{prefix}{name}.weight"] = shape
            biased = config.mlp_bias if name[0] == "m" else config.attention_bias
            if biased:
                shapes[f"{prefix}{name}.bias"] = shape[:1]
        shapes[f"{prefix}input_layernorm.weight"] = (width,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (width,)
    shapes["model.norm.weight"] = (width,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, width)
    return shapes


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_positive(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not value > 0:
        raise BadInputError(f"config: {name} must be a positive number, got {value!r}")
