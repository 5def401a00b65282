"""Mistral, Qwen2 and Qwen3 against `transformers`, in all their forms."""

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from forward import full_logits

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import CacheView, Deltas, Held, LowRank, Packed, TokenBatch
from cycleqd_jax.models.families import config_from_hf, make_program, read_config
from cycleqd_jax.models.loading import load_model

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
WINDOWS = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
VARIANTS = {
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral_window": ("Mistral", {"sliding_window": 6}),
    "mistral_wide_heads": ("Mistral", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {}),
    "qwen2_tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2_windows": ("Qwen2", WINDOWS),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3_biases": ("Qwen3", {"attention_bias": True, "head_dim": 8}),
    "qwen3_windows": (
        "Qwen3",
        WINDOWS
        | {
            "head_dim": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}
EVERY = pytest.mark.parametrize("variant", VARIANTS)
SOME = pytest.mark.parametrize("variant", ["mistral_window", "qwen2_windows", "qwen3"])


def hf_model(variant):
    family, changes = VARIANTS[variant]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**(SIZES | changes))
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases start at a constant
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def twin(variant, **options):
    model = hf_model(variant)
    config = config_from_hf(model.config.to_dict())
    weights = {
        name: jnp.asarray(p.detach().numpy()) for name, p in model.named_parameters()
    }
    assert {n: w.shape for n, w in weights.items()} == config.weight_shapes()
    return model, make_program(config, **options), weights


def tokens_of(seed, batch=2, length=24):
    return np.random.default_rng(seed).integers(0, 64, (batch, length), np.int32)


def assert_near(got, want):
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max(), rtol=0)


def torch_logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(np.asarray(tokens, np.int64))).logits.numpy()


@EVERY
@pytest.mark.parametrize("attention", ["xla", "dot_product"])
def test_logits_match_transformers(variant, attention):
    model, program, weights = twin(variant, attention=attention)
    tokens = tokens_of(1)
    assert_near(full_logits(program, weights, tokens), torch_logits(model, tokens))


@SOME
def test_prefill_and_decode_equal_the_full_forward(variant):
    model, program, weights = twin(variant)
    tokens = tokens_of(3)
    want, cache = torch_logits(model, tokens), program.empty_cache(2, 32)
    for at in range(0, 16, 5):  # chunks, the last with padding
        part = np.zeros((2, 5), np.int32)
        part[:, : min(5, 16 - at)] = tokens[:, at : min(at + 5, 16)]
        logits, cache = program.extend(
            weights,
            part,
            jnp.full(2, at),
            CacheView(cache),
            last=jnp.full(2, min(5, 16 - at) - 1),
        )
    assert_near(logits, want[:, 15])
    for at in range(16, 24):
        logits, cache = program.extend(
            weights, tokens[:, at : at + 1], jnp.full(2, at), CacheView(cache)
        )
        assert_near(logits, want[:, at])


@SOME
def test_tokens_that_are_held_back(variant):
    model, program, weights = twin(variant, attention="dot_product")
    tokens = tokens_of(4)
    want, cache = torch_logits(model, tokens), program.empty_cache(2, 32)
    _, cache = program.extend(
        weights, tokens[:, :12], jnp.zeros(2, jnp.int32), CacheView(cache)
    )
    held = program.empty_cache(2, 8)
    for step in range(8):
        view = CacheView(cache, held=Held(held, jnp.full(2, 12), jnp.int32(step)))
        at = 12 + step
        logits, held = program.extend(
            weights, tokens[:, at : at + 1], jnp.full(2, at), view
        )
        assert_near(logits, want[:, at])


@SOME
def test_packed_sequences_do_not_see_each_other(variant):
    model, program, weights = twin(variant)
    parts = [tokens_of(5, 1, 9), tokens_of(6, 1, 14)]
    packed = Packed(
        jnp.asarray([[0] * 9 + [1] * 14]),
        jnp.asarray([[*range(9), *range(14)]]),
    )
    row = np.concatenate(parts, axis=1)
    got = program.logits(weights, program.hidden(weights, row, packed=packed))
    want = np.concatenate([torch_logits(model, part) for part in parts], axis=1)
    assert_near(got, want)


@SOME
def test_factored_equals_materialised(variant):
    _, program, weights = twin(variant)
    rng, batch = np.random.default_rng(7), 3
    matrices, vectors, dense = {}, {}, [dict(weights) for _ in range(batch)]
    for name, w in weights.items():
        if w.ndim == 2:
            u, v = (0.1 * rng.standard_normal((n, 3)) for n in w.shape)
            c = rng.standard_normal((batch, 3))
            matrices[name] = LowRank(*(jnp.asarray(a, jnp.float32) for a in (u, v, c)))
            for row in range(batch):
                dense[row][name] = w + (u * c[row]) @ v.T
        else:
            change = 0.1 * rng.standard_normal((batch, *w.shape))
            vectors[name] = jnp.asarray(change, jnp.float32)
            for row in range(batch):
                dense[row][name] = w + change[row]
    tokens = tokens_of(8, batch)
    got = full_logits(program, weights, tokens, Deltas(matrices, vectors))
    for row in range(batch):
        plain = {n: jnp.asarray(w, jnp.float32) for n, w in dense[row].items()}
        want = full_logits(program, plain, tokens[row : row + 1])[0]
        assert_near(got[row], np.asarray(want))


@SOME
def test_input_grams_are_sums_over_what_the_layers_read(variant):
    model, program, weights = twin(variant)
    wanted, tokens = {}, tokens_of(9, 1, 20)

    def record(name):
        def hook(module, args, output):
            x = args[0].double().reshape(-1, args[0].shape[-1])
            wanted[name] = (x.T @ x).numpy()

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(record(f"{name}.weight"))
    torch_logits(model, tokens)
    batch = TokenBatch(jnp.asarray(tokens), jnp.asarray([20]))
    found = {}
    for layer in program.input_grams(weights, [[batch]]):
        found |= {name: gram for name, (gram,) in layer.items()}
    assert found.keys() == wanted.keys()
    for name, gram in found.items():
        assert_near(gram, wanted[name])


@EVERY
def test_a_folder_of_transformers_in_and_out(hf, tmp_path, same_weights, variant):
    from cycleqd_jax.models.formats.hf_folder import export_model

    model = hf_model(variant)
    hf.save(tmp_path / "theirs", model)
    loaded = load_model(tmp_path / "theirs", "float32")
    same_weights(loaded.weights, hf.weights(model))
    export_model(
        tmp_path / "ours", loaded.config, loaded.weights, loaded.tokenizer, "# A model"
    )
    assert read_config(tmp_path / "ours") == loaded.config
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert type(again) is type(model)
    tokens = tokens_of(10)
    np.testing.assert_array_equal(
        torch_logits(again, tokens), torch_logits(model, tokens)
    )


@pytest.mark.parametrize("variant", ["qwen2", "qwen2_tied", "qwen3"])
def test_gguf_files_are_read_as_transformers_reads_them(tmp_path, variant):
    """llama.cpp's converter keeps the rows of these families as they are."""
    model = hf_model(variant)
    config, kind = model.config, model.config.model_type
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", kind)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if kind == "qwen3":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    table = gguf.get_tensor_name_map(
        {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[kind], 3
    )
    for name, parameter in model.named_parameters():
        stored = table.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(stored, parameter.detach().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    from cycleqd_jax.models.formats.gguf import read_gguf

    read = read_gguf(tmp_path / "m.gguf")
    want = config_from_hf(config.to_dict())
    assert read.config.rms_norm_eps == pytest.approx(want.rms_norm_eps)  # float32
    assert read.config.model_copy(update={"rms_norm_eps": want.rms_norm_eps}) == want
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(read.weights[name], parameter.detach().numpy())


@pytest.mark.parametrize("family", ["Mistral", "Qwen2", "Qwen3"])
def test_defaults_are_those_of_transformers(family):
    names = ("vocab_size", "hidden_size", "intermediate_size")
    names += ("num_hidden_layers", "num_attention_heads")
    small = {name: SIZES[name] for name in names}
    small |= {"num_attention_heads": 32, "hidden_size": 64}  # 32 key heads by default
    theirs = getattr(transformers, f"{family}Config")(**small)
    ours = config_from_hf(small | {"model_type": theirs.model_type})
    for name in ("num_key_value_heads", "rms_norm_eps", "max_position_embeddings"):
        assert getattr(ours, name) == getattr(theirs, name)
    for name in ("sliding_window", "tie_word_embeddings"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    if family != "Qwen2":  # whose config has no such setting
        assert ours.head_dim == theirs.head_dim


@pytest.mark.parametrize("variant", ["qwen2_windows", "qwen3_windows"])
def test_windows_are_those_of_transformers(variant):
    theirs = hf_model(variant).config
    ours = config_from_hf(theirs.to_dict())
    windows = [
        5 if kind == "sliding_attention" else None for kind in theirs.layer_types
    ]
    assert [ours.window(layer) for layer in range(3)] == windows
    again = type(theirs)(**ours.to_hf())
    assert again.layer_types == theirs.layer_types
    assert again.sliding_window == theirs.sliding_window


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("mistral", {"sliding_window": 0}, "sliding_window"),
        ("mistral", {"hidden_act": "gelu"}, r"hidden_act = 'gelu'.*'silu'"),
        ("qwen2", WINDOWS | {"layer_types": ["full_attention"]}, "layer_types"),
        (
            "qwen2",
            WINDOWS | {"layer_types": ["sliding_attention"] * 2},
            r"layer_types must name 3 layers.*names 2",
        ),
        ("qwen3", {"layer_types": ["sliding_attention"] * 3}, "give no window"),
        ("qwen3", WINDOWS | {"layer_types": ["chunked_attention"] * 3}, "layer_types"),
        (
            "qwen2_moe",
            {},
            r"'qwen2_moe' is not supported.*llama, mistral, qwen2, qwen3",
        ),
    ],
)
def test_what_is_not_computed_is_refused(kind, changes, message):
    with pytest.raises(BadInputError, match=message):
        config_from_hf(SIZES | {"model_type": kind} | changes, "m/config.json")
