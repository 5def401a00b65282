"""Every field of a GGUF file is honoured, refused by name, or changes nothing."""

import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats.gguf import read_gguf, read_gguf_config
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.loading import load_model


@pytest.fixture(scope="module")
def tiny(hf):
    return hf.weights(hf.model())


@pytest.fixture(scope="module")
def write(hf, tiny, tmp_path_factory):
    def write(**settings):
        path = tmp_path_factory.mktemp("gguf") / "m.gguf"
        raw = {"tokenizer.chat_template": "x<|end|>"} | settings.pop("raw", {})
        return hf.write_gguf(path, tiny, raw=raw, **settings)

    return write


def scaled(write, **fields):
    names = {f"llama.rope.{name}": value for name, value in fields.items()}
    return read_gguf_config(write(raw=names))


@pytest.mark.parametrize(
    ("fields", "scaling"),
    [
        ({"scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"scaling.factor": 2.0, "scale_linear": 4.0},
            {"rope_type": "linear", "factor": 2.0},
        ),
        ({"scaling.type": "linear"}, None),
        ({"scaling.type": "none", "scaling.factor": 4.0}, None),
        ({"scaling.type": "none", "scale_linear": 4.0}, None),
        (
            {"scaling.type": "yarn", "scaling.factor": 4.0},
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 128,
            },
        ),
        (
            {
                "scaling.type": "yarn",
                "scaling.factor": 4.0,
                "scaling.original_context_length": 32,
                "scaling.yarn_ext_factor": 1.0,
                "scaling.yarn_attn_factor": 1.5,
                "scaling.yarn_beta_fast": 16.0,
                "scaling.yarn_beta_slow": 2.0,
                "scaling.finetuned": True,
            },
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "attention_factor": 1.5,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
            },
        ),
    ],
)
def test_rope_scaling_is_that_of_the_same_config_json(write, fields, scaling):
    plain = read_gguf_config(write()).to_hf()
    plain.pop("rope_parameters")
    expected = LlamaConfig.from_hf(plain | {"rope_scaling": scaling})
    assert scaled(write, **fields) == expected


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"llama.rope.scaling.type": "longrope"}, "rope.scaling.type 'longrope'"),
        ({"llama.rope.scaling.type": "odd"}, "rope.scaling.type 'odd'"),
        ({"llama.rope.scaling.attn_factor": 1.2}, "rope.scaling.attn_factor = 1.2"),
        ({"llama.rope.scaling.alpha": 1000.0}, "rope.scaling.alpha"),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.yarn_ext_factor": 0.5,
            },
            "yarn_ext_factor = 0.5",
        ),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.yarn_log_multiplier": 0.1,
            },
            "yarn_log_multiplier",
        ),
        ({"llama.rope.scale": 2.0}, "rope.scale = 2.0"),
        ({"llama.rope.dimension_count": 4}, "rope.dimension_count = 4 .* only 8"),
        ({"llama.rope.freq_base_swa": 10000.0}, "rope.freq_base_swa"),
        ({"llama.attention.value_length": 16}, "attention.value_length = 16"),
        ({"llama.attention.scale": 0.5}, "attention.scale = 0.5"),
        ({"llama.attention.sliding_window": 16}, "attention.sliding_window = 16"),
        ({"llama.attention.clamp_kqv": 8.0}, "attention.clamp_kqv = 8.0"),
        ({"llama.attention.max_alibi_bias": 8.0}, "attention.max_alibi_bias"),
        ({"llama.attention.causal": False}, "attention.causal = false"),
        ({"llama.attention.head_count": [4, 2]}, "attention.head_count = "),
        ({"llama.attention.head_count_kv": [2, 2, 2]}, "attention.head_count_kv = "),
        ({"llama.feed_forward_length": [64, 32]}, "feed_forward_length = "),
        ({"llama.logit_scale": 0.5}, "logit_scale = 0.5"),
        ({"llama.embedding_scale": 12.0}, "embedding_scale = 12.0"),
        ({"llama.residual_scale": 0.25}, "residual_scale = 0.25"),
        ({"llama.final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"llama.attn_logit_softcapping": 30.0}, "attn_logit_softcapping"),
        ({"llama.use_parallel_residual": True}, "use_parallel_residual = true"),
        ({"llama.tensor_data_layout": "odd"}, "tensor_data_layout = 'odd'"),
        ({"llama.hidden_activation": "gelu"}, "hidden_activation = 'gelu'"),
        ({"llama.expert_count": 8}, "expert_count = 8"),
        ({"llama.nextn_predict_layers": 1}, "nextn_predict_layers = 1"),
        ({"llama.of_the_future": 3}, "of_the_future = 3"),
        ({"llama.context_length": None}, "lacks llama.context_length"),
        ({"llama.embedding_length": "odd"}, "hidden_size"),
        ({"general.type": "adapter"}, "general.type is 'adapter'"),
        ({"general.type": "mmproj"}, "general.type is 'mmproj'"),
        ({"general.architecture": "mamba"}, "general.architecture 'mamba'"),
        ({"general.architecture": ["llama"]}, "general.architecture "),
        ({"general.quantization_version": 1}, "general.quantization_version is 1"),
        ({"general.alignment": 24}, "alignment"),
        ({"split.count": 3, "split.no": 0}, r"split.no.*-00001-of-00003\.gguf"),
    ],
)
def test_refusals_name_the_field(write, raw, words):
    with pytest.raises(BadInputError, match=rf"m\.gguf: .*{words}") as caught:
        read_gguf(write(raw=raw))
    assert "\n" not in str(caught.value)


def test_fields_that_change_no_number_are_ignored(write):
    more = {
        "llama.vocab_size": 64,
        "llama.rope.scaling.finetuned": True,
        "llama.rope.scaling.original_context_length": 64,
        "llama.attention.layer_norm_epsilon": 1e-6,
        "llama.attention.causal": True,
        "llama.attention.scale": 8**-0.5,
        "llama.attention.sliding_window": 0,
        "llama.attention.clamp_kqv": 0.0,
        "llama.attention.value_length": 8,
        "llama.logit_scale": 1.0,
        "llama.expert_count": 0,
        "llama.expert_used_count": 2,
        "llama.use_parallel_residual": False,
        "llama.tensor_data_layout": "Meta AI original pth",
        "general.file_type": 1024,
        "general.type": "model",
        "general.tags": ["a", "b"],
        "split.count": 0,
        "somebody.own_field": [[1, 2], [3]],
    }
    assert read_gguf_config(write(raw=more)) == read_gguf_config(write())


def test_sizes_per_layer_that_are_all_the_same(write):
    arrays = {
        "llama.attention.head_count": [4, 4],
        "llama.attention.head_count_kv": [2, 2],
        "llama.feed_forward_length": [64, 64],
    }
    assert read_gguf_config(write(raw=arrays)) == read_gguf_config(write())
    alone = read_gguf_config(write(raw={"llama.attention.head_count_kv": None}))
    assert alone.num_key_value_heads == alone.num_attention_heads


def test_scaling_by_tensor_and_by_field_is_refused(write):
    divisors = [("rope_freqs.weight", np.full(4, 2.0, np.float32))]
    raw = {"llama.rope.scale_linear": 2.0}
    with pytest.raises(
        BadInputError, match=r"rope\.scaling fields .* .rope_freqs\.weight"
    ):
        read_gguf_config(write(raw=raw, extra=divisors))
    ones = [("rope_freqs.weight", np.ones(4, np.float32))]
    assert read_gguf_config(write(raw=raw, extra=ones)).rope_scaling.factor == 2


def changed(write, at, data):
    path = write(kind="Q8_0")
    whole = bytearray(path.read_bytes())
    at = at(whole) if callable(at) else at
    whole[at : at + len(data)] = data
    path.write_bytes(whole)
    return path


def type_of(tensor):
    """Offset of the type of a matrix in its entry: name, 2, two sizes, type."""
    return lambda whole: whole.index(tensor) + len(tensor) + 4 + 16


@pytest.mark.parametrize(
    ("at", "data", "words"),
    [
        (0, b"GGJT", "not a GGUF file"),
        (4, (1).to_bytes(4, "little"), "has GGUF version 1; expected"),
        (4, (3).to_bytes(4, "big"), "big-endian"),
        (type_of(b"blk.0.ffn_up.weight"), b"\x1f", "'blk.0.ffn_up.weight' has type 31"),
        (type_of(b"blk.0.ffn_up.weight"), b"\x04", "'blk.0.ffn_up.weight' has type 4,"),
    ],
)
def test_formats_that_cannot_be_read_are_named(write, at, data, words):
    with pytest.raises(BadInputError, match=words):
        read_gguf(changed(write, at, data))


def test_a_kind_without_dequantisation_is_named(write):
    path = write(extra=[("blk.0.ffn_up.bias", np.ones(64, np.float64))])
    with pytest.raises(BadInputError, match=r"ffn_up\.bias.*F64.*dequantised"):
        read_gguf(path)


def test_all_parts_of_a_split_file_are_read(write, same_weights):
    path = write(kind="F32", tensors_per_part=8)
    parts = sorted(path.parent.glob("m-*.gguf"))
    assert len(parts) == 3
    whole = load_model(write(kind="F32"))
    for part in parts:
        model = load_model(part)
        same_weights(model.weights, whole.weights)
        assert model.fingerprint == whole.fingerprint

    away = parts[2].rename(path.parent / "away")
    with pytest.raises(BadInputError, match=f"missing beside it: {parts[2].name}"):
        load_model(parts[0])
    parts[2].write_bytes(parts[1].read_bytes())
    with pytest.raises(BadInputError, match=r"part 3 .* split\.no 1"):
        load_model(parts[0])
    away.rename(parts[2])
    renamed = parts[0].rename(path.parent / "first.gguf")
    with pytest.raises(BadInputError, match=r"split\.count.*-00001-of-00003\.gguf"):
        load_model(renamed)


def test_the_fingerprint_sees_how_a_file_was_read(write):
    """Scores of a model that was read in another way are not mixed with new ones."""
    raws = [
        {},
        {"llama.rope.scale_linear": 4.0},
        {"tokenizer.ggml.add_bos_token": True},
        {"tokenizer.ggml.pre": "gpt-2"},
    ]
    prints = {load_model(write(raw=raw)).fingerprint for raw in raws}
    assert len(prints) == len(raws)
