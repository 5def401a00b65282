import json
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forward import full_logits

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats.hf_folder import export_model
from cycleqd_jax.models.formats.peft import LoraFactor
from cycleqd_jax.models.formats.peft_export import export_adapter
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.llama.program import LlamaProgram
from cycleqd_jax.models.loading import load_expert, load_model
from cycleqd_jax.models.tokenizer import ChatTokenizer

TOKENS = np.arange(24).reshape(2, 12) * 5 % 50
CHAT = [{"role": "user", "content": "A B"}]


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:60]
    vocab = {t: i for i, t in enumerate(["<|end|>", "<pad>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return ChatTokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=backend,
            eos_token="<|end|>",
            pad_token="<pad>",
            chat_template="{% for m in messages %}{{ m.content }}<|end|>{% endfor %}",
        )
    )


def make(dtype=np.float32, **changes):
    """A random two-layer model."""
    settings = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
    }
    config = LlamaConfig(**(settings | changes))
    rng = np.random.default_rng(0)
    weights = {
        name: (rng.normal(size=shape) * 0.3).astype(dtype)
        for name, shape in config.weight_shapes().items()
    }
    return config, weights


def our_logits(config, weights):
    weights = {name: jnp.asarray(w) for name, w in weights.items()}
    return np.asarray(full_logits(LlamaProgram(config), weights, jnp.asarray(TOKENS)))


def their_logits(model):
    import torch

    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


def assert_close(got, expected):
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "mscale": 0.7,
    "mscale_all_dim": 0.3,
    "truncate": False,
    "original_max_position_embeddings": 8,
}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.3, 1.7],
    "long_factor": [1.0, 2.0, 5.0, 9.0],
    "original_max_position_embeddings": 8,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True, "head_dim": 16},
        {"rope_scaling": LLAMA3, "rope_theta": 500000.0},
        {"rope_scaling": {"rope_type": "linear", "factor": 3.0}},
        # contexts shorter than the sequences
        {"rope_scaling": YARN},
        {"rope_scaling": LONGROPE},
        {
            "rope_scaling": {"rope_type": "dynamic", "factor": 3.0},
            "max_position_embeddings": 8,
        },
    ],
    ids=str,
)
def test_transformers_gives_the_same_logits(tmp_path, tokenizer, changes):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config, weights = make(**changes)
    export_model(tmp_path / "out", config, weights, tokenizer, "# Card")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert_close(our_logits(config, weights), their_logits(model))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    rendered = theirs.apply_chat_template(CHAT, tokenize=False)
    assert theirs.encode(rendered) == tokenizer.encode_chat(CHAT, False)
    generation = model.generation_config
    assert generation.eos_token_id == 0 and generation.pad_token_id == 1
    assert model.config.eos_token_id == 0


@pytest.mark.parametrize("limit", [10**9, 9000])
def test_loads_back_bit_for_bit(tmp_path, tokenizer, limit):
    config, weights = make(tie_word_embeddings=True)
    export_model(
        tmp_path / "out",
        config,
        {name: jnp.asarray(w) for name, w in weights.items()},
        tokenizer,
        "",
        max_shard_bytes=limit,
    )
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert (len(shards) > 2) == (limit == 9000)
    for shard in shards if limit == 9000 else ():
        largest = max(w.nbytes for w in weights.values())
        assert shard.stat().st_size <= max(limit, largest) + 2000
    loaded = load_model(tmp_path / "out")
    assert loaded.config == config
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    for name, weight in weights.items():
        np.testing.assert_array_equal(loaded.weights[name], weight)


def test_sharded_bfloat16_loads_in_transformers(tmp_path, tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    config, weights = make(dtype=jnp.bfloat16)
    export_model(tmp_path / "out", config, weights, tokenizer, "", max_shard_bytes=9000)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.bfloat16
        np.testing.assert_array_equal(
            parameter.detach().float().numpy(), weights[name].astype(np.float32)
        )


def test_same_arguments_same_bytes(tmp_path, tokenizer):
    config, weights = make()
    for name in ("a", "b"):
        export_model(tmp_path / name, config, weights, tokenizer, "# Card")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path
        assert path.stat().st_mode == (tmp_path / "a" / "README.md").stat().st_mode


def test_refusals_leave_nothing_behind(tmp_path, tokenizer):
    config, weights = make()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(BadInputError, match="not an empty folder"):
        export_model(tmp_path / "full", config, weights, tokenizer, "")
    assert os.listdir(tmp_path / "full") == ["file"]
    short = {n: w for n, w in weights.items() if n != "model.norm.weight"}
    with pytest.raises(BadInputError, match=r"lacks weight 'model\.norm"):
        export_model(tmp_path / "out", config, short, tokenizer, "")
    mixed = weights | {"model.norm.weight": np.ones(32, np.float16)}
    with pytest.raises(BadInputError, match="one dtype"):
        export_model(tmp_path / "out", config, mixed, tokenizer, "")
    assert os.listdir(tmp_path) == ["full"]


def test_a_failed_write_leaves_nothing_behind(tmp_path, tokenizer, monkeypatch):
    config, weights = make()

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(ChatTokenizer, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        export_model(tmp_path / "out", config, weights, tokenizer, "")
    assert os.listdir(tmp_path) == []


def test_an_empty_folder_is_used(tmp_path, tokenizer):
    config, weights = make()
    (tmp_path / "out").mkdir()
    export_model(tmp_path / "out", config, weights, tokenizer, "---\nx: y\n---\nhi")
    assert (tmp_path / "out" / "README.md").read_text() == "---\nx: y\n---\nhi\n"


def test_adapter_and_its_base(tmp_path, tokenizer):
    import peft

    config, weights = make(tie_word_embeddings=True)
    base = tmp_path / "base"
    export_model(base, config, weights, tokenizer, "")
    keys = jax.random.split(jax.random.key(0), 100)
    factors = {}
    for i, (name, shape) in enumerate(sorted(config.weight_shapes().items())):
        if len(shape) == 2 and "embed" not in name:
            rank = 2 + i % 3
            b = jax.random.normal(keys[2 * i], (shape[0], rank))
            a = jax.random.normal(keys[2 * i + 1], (rank, shape[1]))
            factors[name] = LoraFactor(np.asarray(b), np.asarray(a), 0.1 * (1 + i % 2))
    export_adapter(tmp_path / "adapter", factors, base, card="text")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    changed = weights | {
        name: weights[name] + f.scale * f.b @ f.a for name, f in factors.items()
    }
    assert_close(our_logits(config, changed), their_logits(adapted))
    named = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(base)
    expert = load_expert(tmp_path / "adapter", load_model(base))
    assert expert.factors.keys() == factors.keys()


def test_adapter_refusals(tmp_path, tokenizer):
    config, weights = make(tie_word_embeddings=True)
    base = tmp_path / "base"
    export_model(base, config, weights, tokenizer, "")
    good = {
        "model.layers.0.mlp.up_proj.weight": LoraFactor(
            np.ones((48, 1)), np.ones((1, 32)), 1.0
        )
    }
    embedding = LoraFactor(np.ones((64, 1)), np.ones((1, 32)), 1.0)
    wrong = LoraFactor(np.ones((47, 1)), np.ones((1, 32)), 1.0)
    for factors, where, words in [
        ({"model.embed_tokens.weight": embedding}, base, "tied"),
        ({"lm_head.weight": embedding}, base, "has None"),
        (dict.fromkeys(good, wrong), base, r"\(47, 32\).*\(48, 32\)"),
        (good, tmp_path / "absent", "cannot be read"),
        ({}, base, "at least one factor"),
    ]:
        with pytest.raises(BadInputError, match=words):
            export_adapter(tmp_path / "adapter", factors, where)
    with pytest.raises(BadInputError, match="not an empty folder"):
        export_adapter(base, good, base)
    assert os.listdir(tmp_path) == ["base"]
