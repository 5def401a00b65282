"""Rotary scaling in the fields and tensors of a GGUF file, in and out.

Where Hugging Face and llama.cpp differ, the file is read as its converter wrote it:
its yarn fields are the parameters of a config.json. What would then be computed
otherwise is not written.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError, show

FREQUENCIES = "rope_freqs.weight"
_YARN = {
    "rope.scaling.yarn_attn_factor": "attention_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
# Kinds that are written as fields, with the parameters of a config.json.
_WRITTEN = {
    "linear": ("rope_type", "factor"),
    "yarn": (
        *("rope_type", "factor", "original_max_position_embeddings"),
        *("beta_fast", "beta_slow"),
    ),
}
_YARN_ONLY = {
    "rope.scaling.yarn_ext_factor": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.0,
}


def rope_scaling(
    fields: Mapping[str, Any],
    divisors: np.ndarray | None,
    head_dim: int,
    place: str,
) -> dict[str, Any] | None:
    """`rope_scaling` of the config.json of the same model.

    Args:
      fields: of the file, without their prefix, which is the architecture.
      divisors: of the frequencies, `[head_dim // 2]`, from the tensor `FREQUENCIES`.
      head_dim: size of a head.
      place: the file and the prefix; error messages begin with it and a field.

    Returns:
      None for plain rotary embeddings.

    Raises:
      BadInputError: if this model does not compute such a scaling; names the field.
    """
    named = _named(fields, place)
    if divisors is None or np.allclose(divisors, 1.0):
        return named
    if named is not None:
        raise BadInputError(
            f"{place}rope.scaling fields ({named['rope_type']}) beside tensor "
            f"{FREQUENCIES!r} are not supported; expected one of them"
        )
    theta = fields.get("rope.freq_base", 10000.0)
    return _llama3(divisors, theta, head_dim, place)


def add_rope(writer: Any, settings: Mapping[str, Any]) -> np.ndarray | None:
    """Writes the rotary parameters of a model into a GGUF file.

    Args:
      writer: a `gguf.GGUFWriter`.
      settings: of a config.json, as `LlamaConfig.to_hf` gives them.

    Returns:
      The tensor `FREQUENCIES`, float32 `[head_dim // 2]`; None if there is none.

    Raises:
      BadInputError: llama.cpp does not compute such a scaling; names it.
    """
    import gguf

    head_dim, theta = settings["head_dim"], settings["rope_theta"]
    scaling = settings["rope_scaling"]
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(theta)
    if scaling is None:
        return None
    kind, factor = scaling["rope_type"], scaling.get("factor")
    context = scaling.get("original_max_position_embeddings")
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        divisors = _divisors(theta, head_dim, factor, low, high, context)
        return divisors.astype(np.float32)
    if kind not in _WRITTEN:
        raise BadInputError(
            f"GGUF file: rope_scaling of type {kind!r} is not written; supported: "
            f"{', '.join(_WRITTEN)} and llama3; export the folder without a GGUF file."
        )
    known = _WRITTEN[kind]
    odd = [n for n, v in scaling.items() if v is not None and n not in known]
    if odd:
        raise BadInputError(
            f"GGUF file: rope_scaling.{odd[0]} of {kind} is not written, because "
            "llama.cpp computes it otherwise; export the folder without a GGUF file."
        )
    writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
    writer.add_rope_scaling_factor(
        factor or settings["max_position_embeddings"] / context
    )
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(context)
        if "beta_fast" in scaling:
            writer.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
        if "beta_slow" in scaling:
            writer.add_rope_scaling_yarn_beta_slow(scaling["beta_slow"])
    return None


def _named(fields: Mapping[str, Any], place: str) -> dict[str, Any] | None:
    kind, factor = fields.get("rope.scaling.type"), fields.get("rope.scaling.factor")
    if factor is None:
        factor = fields.get("rope.scale_linear")  # the older name
    # llama.cpp's defaults; it takes zero for "not set".
    kind, factor = kind or "linear", factor or 1.0
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise BadInputError(
            f"{place}rope.scaling.type {kind!r} is not supported; supported: none, "
            "linear, yarn, and Llama 3.1's rope_freqs.weight; use the model's Hugging "
            "Face folder instead"
        )
    for key, only in _YARN_ONLY.items():
        if fields.get(key, only) != only:
            raise BadInputError(
                f"{place}{key} = {show(fields[key])} is not supported; this model "
                f"computes only {only}"
            )
    context = fields.get("rope.scaling.original_context_length")
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": context or fields["context_length"],
        **{name: fields[key] for key, name in _YARN.items() if key in fields},
    }


def _llama3(
    divisors: np.ndarray, theta: float, head_dim: int, place: str
) -> dict[str, Any]:
    """Finds the Llama 3.1 scaling that a file stores only as divisors of frequencies.

    llama.cpp's converter writes the result, not the parameters. Every Llama since 3.1
    has the same parameters except the factor, which is the largest divisor; they are
    accepted only if they give the file's numbers.
    """
    low, high, context = 1.0, 4.0, 8192
    factor = float(divisors.max())
    expected = _divisors(theta, head_dim, factor, low, high, context)
    same_shape = divisors.shape == expected.shape
    if not (same_shape and np.allclose(divisors, expected, rtol=1e-3)):
        raise BadInputError(
            f"{place}rope: {FREQUENCIES} is not a Llama 3.1 scaling (factor {factor:g}"
            f", 1 to 4, {context} tokens); use the model's Hugging Face folder instead"
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }


def _divisors(
    theta: float, head_dim: int, factor: float, low: float, high: float, context: int
) -> np.ndarray:
    """Llama 3.1's divisors of the frequencies, float64 `[head_dim // 2]`."""
    channels = np.arange(0, head_dim, 2, dtype=np.float64)
    wavelength = 2 * np.pi * theta ** (channels / head_dim)
    ramp = np.clip((context / wavelength - low) / (high - low), 0.0, 1.0)
    return 1.0 / ((1.0 - ramp) / factor + ramp)
