import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.llama.config import LlamaConfig

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
OLD = {  # as Llama-2 and Llama-3.1 repositories have it
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "pretraining_tp": 1,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        LLAMA3,
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ],
)
def test_both_spellings_give_what_transformers_reads(scaling):
    from transformers import LlamaConfig as Theirs

    old = OLD | {"rope_scaling": scaling and dict(scaling)}
    theirs = Theirs(**{k: v for k, v in old.items() if k != "model_type"})
    ours = LlamaConfig.from_hf(old)
    assert ours == LlamaConfig.from_hf(theirs.to_dict())
    assert ours.rope_theta == 500000.0
    assert ours.to_hf()["rope_scaling"] == scaling
    assert LlamaConfig.from_hf(ours.to_hf()) == ours
    assert hash(ours) == hash(LlamaConfig.from_hf(old))
    again = Theirs(**{k: v for k, v in ours.to_hf().items() if k != "model_type"})
    assert again.rope_parameters == theirs.rope_parameters
    assert again.head_dim == theirs.head_dim == ours.head_dim


def test_defaults_are_those_of_transformers():
    from transformers import LlamaConfig as Theirs

    names = ("vocab_size", "hidden_size", "intermediate_size")
    names += ("num_hidden_layers", "num_attention_heads")
    small = {name: OLD[name] for name in names} | {"model_type": "llama"}
    theirs = Theirs(**{name: OLD[name] for name in names})
    ours = LlamaConfig.from_hf(small)
    for name in ("num_key_value_heads", "head_dim", "rms_norm_eps", "mlp_bias"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.max_position_embeddings == theirs.max_position_embeddings
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]


def test_type_is_the_older_name_of_rope_type():
    old = OLD | {"rope_scaling": {"type": "linear", "factor": 2.0}}
    scaling = LlamaConfig.from_hf(old).rope_scaling
    assert (scaling.rope_type, scaling.factor) == ("linear", 2.0)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_weight_shapes_are_those_of_the_torch_model(hf, tied, biased):
    model = hf.model(tie_word_embeddings=tied, attention_bias=biased, mlp_bias=biased)
    config = LlamaConfig.from_hf(model.config.to_dict())
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert config.weight_shapes() == expected
    config.weight_shapes().clear()
    assert config.weight_shapes() == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
        ({"sliding_window": 4096}, "sliding_window = 4096"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"hidden_size": None}, "hidden_size: Field required"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"rope_theta": "big"}, "rope_theta: .*valid number.*'big'"),
        ({"rms_norm_eps": -1}, "rms_norm_eps: .*greater than 0.*-1"),
        ({"rope_scaling": {"rope_type": "novel", "factor": 2}}, "'novel'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "'linear' needs factor"),
        ({"rope_scaling": LLAMA3 | {"factor": None}}, "'llama3' needs factor"),
        ({"rope_scaling": [1]}, "must be an object"),
    ],
)
def test_refusals_name_the_setting(change, words):
    with pytest.raises(BadInputError, match=words) as caught:
        LlamaConfig.from_hf(OLD | change, source="folder/config.json")
    assert str(caught.value).startswith("folder/config.json: ")
