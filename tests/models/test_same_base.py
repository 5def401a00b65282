"""Settings that make another function are refused; others are not.

`transformers` says which is which: the cosines and sines of a model's positions.
"""

import pathlib

import numpy as np
import pytest
import torch
from transformers import LlamaConfig as Theirs
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.families import config_from_hf
from cycleqd_jax.models.same_base import check_same_function

PLAIN = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rope_theta": 1000.0,
}


def scaled(rope_type, **parameters):
    return PLAIN | {"rope_scaling": {"rope_type": rope_type} | parameters}


LONG = {"original_max_position_embeddings": 32}
LINEAR = scaled("linear", factor=4.0)
DYNAMIC = scaled("dynamic", factor=3.0)
YARN = scaled("yarn", factor=4.0, **LONG)
YARN_RATIO = scaled("yarn", factor=None, **LONG)
YARN_CONTEXT = scaled("yarn", factor=4.0)
LONGROPE = scaled("longrope", short_factor=[1.0, 1.1, 1.3, 1.7],
                  long_factor=[1.0, 2.0, 5.0, 9.0], **LONG)  # fmt: skip
LLAMA3 = scaled("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=64)  # fmt: skip
CONTEXT = {"max_position_embeddings": 256}
CHANGES = [
    (PLAIN, CONTEXT),
    (PLAIN, {"rope_theta": 1001.0}),
    (PLAIN, {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    (PLAIN, {"rope_scaling": {"type": "linear", "factor": 1.0}}),
    (PLAIN, {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}}),
    (PLAIN, {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    (LINEAR, {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    (LINEAR, {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    (LINEAR, {"rope_scaling": None}),
    (LINEAR, CONTEXT),
    (DYNAMIC, CONTEXT),
    (DYNAMIC, {"factor": 2.0}),
    (YARN, CONTEXT),
    (YARN, {"original_max_position_embeddings": 16}),
    (YARN, {"beta_fast": 32, "beta_slow": 1, "truncate": True}),
    (YARN, {"beta_fast": 1.5}),
    (YARN, {"attention_factor": 0.1 * float(np.log(4.0)) + 1.0}),
    (YARN, {"attention_factor": 1.5}),
    (YARN, {"mscale": 0.7, "mscale_all_dim": 0.3}),
    (YARN_RATIO, CONTEXT),
    (YARN_CONTEXT, CONTEXT),
    (LONGROPE, CONTEXT),
    (LONGROPE, {"factor": 4.0}),
    (LONGROPE, {"factor": 2.0}),
    (LONGROPE, {"long_factor": [1.0, 2.0, 5.0, 8.0]}),
    (LONGROPE, {"short_factor": [1.0, 1.1, 1.3, 1.6]}),
    (LONGROPE, {"original_max_position_embeddings": 64}),
    (LLAMA3, CONTEXT),
    (LLAMA3, {"factor": 4.0}),
    (LLAMA3, {"low_freq_factor": 2.0}),
    (LLAMA3, {"high_freq_factor": 3.0}),
    (LLAMA3, {"original_max_position_embeddings": 32}),
]


def changed(settings, change):
    """The change goes among the rope parameters unless it is of the whole config."""
    outer = {n: v for n, v in change.items() if n in PLAIN or n.startswith("rope_")}
    new = settings | outer
    if "rope_parameters" in outer:
        del new["rope_theta"]
    inner = {n: v for n, v in change.items() if n not in outer}
    if inner:
        new["rope_scaling"] = new["rope_scaling"] | inner
    return new


def their_positions(settings):
    """Cosines and sines at all positions, within and beyond every context here."""
    data = {n: v for n, v in settings.items() if n != "model_type"}
    data = {n: dict(v) if isinstance(v, dict) else v for n, v in data.items()}
    rotary, x = LlamaRotaryEmbedding(Theirs(**data)), torch.zeros(1)
    found = [rotary(x, torch.arange(length)[None]) for length in (12, 40, 300)]
    return np.concatenate([a.numpy().ravel() for pair in found for a in pair])


@pytest.mark.parametrize(("base", "change"), CHANGES)
def test_positions(base, change):
    new = changed(base, change)
    same = np.allclose(their_positions(base), their_positions(new), atol=1e-5)
    configs = [config_from_hf(data) for data in (new, base)]
    if same:
        check_same_function(pathlib.Path("e"), *configs)
        return
    with pytest.raises(BadInputError, match=r"^expert e: its (rope|max_position)_"):
        check_same_function(pathlib.Path("e"), *configs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-05, .* 1e-06"),
        ({"head_dim": 16}, "head_dim is 16, .* 8"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"tie_word_embeddings": True, "vocab_size": 70}, None),
        ({"num_key_value_heads": 4}, "num_key_value_heads is 4"),
        ({"pretraining_tp": 2}, None),
        ({"hidden_act": "swish"}, None),
        ({"rms_norm_eps": float(np.float32(1e-6))}, None),  # as GGUF files have it
        (
            {"attention_dropout": 0.1, "use_cache": False, "torch_dtype": "float16"},
            None,
        ),
        ({"initializer_range": 0.1, "bos_token_id": 7, "eos_token_id": [1, 2]}, None),
    ],
)
def test_other_settings(change, words):
    base, new = config_from_hf(PLAIN), config_from_hf(PLAIN | change)
    if words is None:
        check_same_function(pathlib.Path("e"), new, base)
        return
    with pytest.raises(BadInputError, match=words):
        check_same_function(pathlib.Path("e"), new, base)
