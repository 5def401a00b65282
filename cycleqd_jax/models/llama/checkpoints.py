"""Sizes of well-known Llama checkpoints, to plan runs without their weights.

Source: the `config.json` of each on the Hugging Face hub.
"""

from cycleqd_jax.models.llama.config import LlamaConfig


def _config(layers: int, width: int, ffn: int, heads: int, kv_heads: int, **settings):
    return LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=ffn,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=width // heads,
        rms_norm_eps=1e-5,
        **settings,
    )


def _llama3_scaling(factor: float) -> dict[str, float | int | str]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


_LLAMA_2 = {"vocab_size": 32000, "max_position_embeddings": 4096}
_LLAMA_3 = {
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
_LLAMA_31 = _LLAMA_3 | {
    "max_position_embeddings": 131072,
    "rope_scaling": _llama3_scaling(8.0),
}
_LLAMA_32 = _LLAMA_31 | {
    "rope_scaling": _llama3_scaling(32.0),
    "tie_word_embeddings": True,
}
_SMOLLM2 = {
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}

_TINY = _config(22, 2048, 5632, 32, 4, vocab_size=32000)

# By hub name; instruct and chat versions have the same sizes.
CHECKPOINTS = {
    "meta-llama/Llama-2-7b-hf": _config(32, 4096, 11008, 32, 32, **_LLAMA_2),
    "meta-llama/Llama-2-13b-hf": _config(40, 5120, 13824, 40, 40, **_LLAMA_2),
    "meta-llama/Meta-Llama-3-8B": _config(32, 4096, 14336, 32, 8, **_LLAMA_3),
    "meta-llama/Llama-3.1-8B": _config(32, 4096, 14336, 32, 8, **_LLAMA_31),
    "meta-llama/Llama-3.2-1B": _config(16, 2048, 8192, 32, 8, **_LLAMA_32),
    "meta-llama/Llama-3.2-3B": _config(28, 3072, 8192, 24, 8, **_LLAMA_32),
    "HuggingFaceTB/SmolLM2-135M": _config(30, 576, 1536, 9, 3, **_SMOLLM2),
    "HuggingFaceTB/SmolLM2-360M": _config(32, 960, 2560, 15, 5, **_SMOLLM2),
    "HuggingFaceTB/SmolLM2-1.7B": _config(
        24, 2048, 8192, 32, 32, **(_SMOLLM2 | {"rope_theta": 130000.0})
    ),
    "TinyLlama/TinyLlama_v1.1": _TINY,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": _TINY,
}
