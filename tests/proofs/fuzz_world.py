"""A world in kilobytes: model as folder, shards and GGUF, adapters, a finished run."""

import json
import pathlib
import shutil

import numpy as np
import toy_world

from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.formats.hf_folder import export_model
from cycleqd_jax.models.formats.peft import LoraFactor
from cycleqd_jax.models.formats.peft_export import save_lora
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.tokenizer import ChatTokenizer
from experiments import agent_skills

CHAT = (
    "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def make_tokenizer() -> ChatTokenizer:
    """Bytes, one merge of two of them and two special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {t: i for i, t in enumerate(["<|end|>", "<|start|>", *alphabet, "12"])}
    backend = Tokenizer(models.BPE(vocab, merges=[("1", "2")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end|>", "<|start|>"])
    return ChatTokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=backend,
            bos_token="<|start|>",
            eos_token="<|end|>",
            chat_template=CHAT,
        )
    )


def make_gguf(path: pathlib.Path, config: LlamaConfig, weights: dict) -> None:
    """The same model as llama.cpp would hold it, in 16 bits."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    vocabulary = make_tokenizer().vocabulary
    tokens = sorted(vocabulary, key=vocabulary.get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(["1 2"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_chat_template(CHAT)
    names = {"embed_tokens": "token_embd", "norm": "output_norm"}
    parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
             "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up",
             "down_proj": "ffn_down", "q_proj": "attn_q", "k_proj": "attn_k",
             "v_proj": "attn_v"}  # fmt: skip
    for name, weight in weights.items():
        module = name.split(".")[-2]
        block = f"blk.{name.split('.')[2]}." if ".layers." in name else ""
        stored = weight.astype(np.float16 if weight.ndim == 2 else np.float32)
        writer.add_tensor(f"{block}{(names | parts)[module]}.weight", stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_fuzz_world(folder: pathlib.Path) -> dict:
    """What `make_inputs` writes, and a finished run of it in run/.

    Returns:
      The settings of that run.
    """
    settings = make_inputs(folder)
    toy_world.write_config(folder / "toy.yaml", settings)
    if agent_skills.main(["--config", str(folder / "toy.yaml"), "--resume"]) != 0:
        raise SystemExit("the undamaged run did not end well")
    return settings


def make_inputs(folder: pathlib.Path) -> dict:
    """Writes base/, sharded/, base.gguf and the experts.

    Returns:
      The settings of a run of them.
    """
    tokenizer = make_tokenizer()
    rng = np.random.default_rng(0)
    config, weights = toy_world.random_model(tokenizer.vocab_size, rng)
    export_model(folder / "base", config, weights, tokenizer, "# Random\n")
    shutil.copytree(folder / "base", folder / "sharded")
    (folder / "sharded" / safetensors.WEIGHTS).unlink()
    shards = {f"model-{i + 1}.safetensors": sorted(weights)[i::2] for i in range(2)}
    for file, names in shards.items():
        safetensors.write_file(
            folder / "sharded" / file, {n: weights[n] for n in names}
        )
    index = {name: file for file, names in shards.items() for name in names}
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    (folder / "sharded" / safetensors.INDEX).write_text(text)
    make_gguf(folder / "base.gguf", config, weights)
    for task in toy_world.TASKS[:3]:
        factors = {
            name: LoraFactor(
                0.5 * rng.standard_normal((shape[0], 2), np.float32),
                0.5 * rng.standard_normal((2, shape[1]), np.float32),
                1.0,
            )
            for name, shape in config.weight_shapes().items()
            if "proj" in name
        }
        save_lora(folder / task, factors, base_name="base", card="Random.\n")
    return {
        "seed": 3,
        "run_dir": str(folder / "run"),
        "base_model": str(folder / "base"),
        "tasks": list(toy_world.ENTRIES[:3]),
        "experts": {
            entry: str(folder / task)
            for entry, task in zip(toy_world.ENTRIES, toy_world.TASKS[:3], strict=False)
        },
        "problems": {"optimise": 3, "validate": 2, "test": 2, "train": 2},
        "basis": {"keep": False},
        "qd": {"num_generations": 4, "children_per_batch": 2, "bins": 3},
        "aggregation": {"candidates": 1},
        "baselines": {"scaled_merge_factors": [0.5]},
        "engine": {
            "slots": 4,
            "length": 48,
            "prefill_rows": 2,
            "prefill_chunk": 16,
            "decode_steps": 4,
            "mode": "factored",
        },
    }
