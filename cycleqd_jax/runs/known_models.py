"""Sizes of the models that presets name, to plan a run before they are downloaded."""

import re
from typing import NamedTuple

from cycleqd_jax.models.base import WeightsConfig
from cycleqd_jax.models.families import any_config_from_hf

# By hub name: the `config.json` of the models that presets name, to plan without them.
_KNOWN_MODELS = {
    "meta-llama/Meta-Llama-3-8B": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    },
    "meta-llama/Llama-3.1-70B": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": False,
    },
    "HuggingFaceTB/SmolLM2-135M": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
    "facebook/sam-vit-huge": {
        "model_type": "sam",
        "vision_config": {
            "hidden_size": 1280,
            "mlp_dim": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "global_attn_indexes": [7, 15, 23, 31],
        },
    },
}


class KnownModel(NamedTuple):
    """Attributes: hub name and sizes of a model."""

    name: str
    config: WeightsConfig


def known_model(source: str) -> KnownModel | None:
    """The model that a hub name stands for, if presets name it.

    Args:
      source: `org/name@revision`. Organisation and case do not matter, because many
        mirror a gated model under their own name.
    """
    for name, settings in _KNOWN_MODELS.items():
        if _bare_name(name) == _bare_name(source):
            return KnownModel(name, any_config_from_hf(settings, name))
    return None


def _bare_name(source: str) -> str:
    last = source.partition("@")[0].rpartition("/")[2].lower()
    return re.sub("^meta-|-instruct", "", last)
