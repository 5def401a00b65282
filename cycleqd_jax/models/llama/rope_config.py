"""The parameters of rotary embeddings in a Hugging Face `config.json`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic

Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
Positives = Annotated[tuple[Positive, ...], pydantic.Field(strict=False)]

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


def rope_from_hf(data: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` of a parsed config.json of either spelling.

    Args:
      data: the parsed file.
      longest: the context, in tokens, of a file that does not tell.

    Raises:
      ValueError: a parameter is malformed or not supported.
    """
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
        found.setdefault(context, data.get("max_position_embeddings", longest))
        if data.get(context) is not None:
            found[context] = data[context]
    return {"rope_theta": theta, "rope_scaling": found}


def _whole_head(share: object) -> str:
    return f"partial_rotary_factor = {share!r} is not supported; it must be 1"
