import json

import numpy as np
import pytest
import safetensors.numpy

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.experts import FullExpert, weights_fingerprint
from cycleqd_jax.models.formats.safetensors import StoredWeights
from cycleqd_jax.models.loading import load_expert, load_model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_folders_saved_by_transformers(hf, tmp_path, same_weights, tied, shard):
    model = hf.model(tie_word_embeddings=tied)
    hf.save(tmp_path, model, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "20KB")
    loaded = load_model(tmp_path)
    same_weights(loaded.weights, hf.weights(model))
    assert loaded.weights.keys() == loaded.config.weight_shapes().keys()
    assert list(loaded.weights) == list(loaded.config.weight_shapes())
    assert loaded.config.tie_word_embeddings == tied
    assert loaded.source == str(tmp_path)


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_dtypes(hf, tmp_path, stored, wanted):
    import torch

    model = hf.model().to(getattr(torch, stored))
    hf.save(tmp_path, model)
    weights = load_model(tmp_path, dtype=wanted).weights
    for name, parameter in model.named_parameters():
        expected = parameter.detach().to(getattr(torch, wanted)).float().numpy()
        assert weights[name].dtype.name == wanted
        np.testing.assert_array_equal(weights[name].astype(np.float32), expected)


def test_biases(hf, tmp_path, same_weights):
    model = hf.model(attention_bias=True, mlp_bias=True)
    same_weights(
        load_model(hf.save(tmp_path, model)).weights,
        hf.weights(model),
    )


@pytest.fixture
def folder(hf, tmp_path):
    return hf.save(tmp_path / "m", hf.model(tie_word_embeddings=True))


def rewrite(folder, **changes):
    path = folder / "model.safetensors"
    weights = safetensors.numpy.load_file(path)
    for name, value in changes.items():
        weights.pop(name, None)
        if value is not None:
            weights[name] = value
    safetensors.numpy.save_file(weights, path, {"format": "pt"})
    return weights


def test_derived_buffers_and_an_equal_head_are_ignored(folder):
    before = load_model(folder).fingerprint
    weights = rewrite(
        folder,
        **{
            "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
            "model.rotary_emb.inv_freq": np.ones(4, np.float32),
            "rope_freqs.weight": np.ones(4, np.float32),
        },
    )
    rewrite(folder, **{"lm_head.weight": weights["model.embed_tokens.weight"]})
    assert load_model(folder).fingerprint == before


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("model.layers.0.odd.weight", np.ones(3, np.float32), "maps to nothing"),
        ("model.layers.2.mlp.up_proj.weight", np.ones((64, 32)), "maps to nothing"),
        ("model.norm.weight", None, "lacks weight"),
        ("model.norm.weight", np.ones(31, np.float32), r"\(32,\).*\(31,\)"),
        ("model.norm.weight", np.ones(32, np.int8), "is I8"),
        ("lm_head.weight", np.ones((64, 32), np.float32), "differs from the embedding"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, name, value, words):
    rewrite(folder, **{name: value})
    with pytest.raises(BadInputError, match=words) as caught:
        load_model(folder)
    assert name in str(caught.value)


def test_missing_and_damaged_files_are_named(hf, folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for data in (b"", whole[:5], whole[:300], whole[:-1], b"\0" * 200):
        path.write_bytes(data)
        with pytest.raises(BadInputError, match=r"model\.safetensors"):
            load_model(folder)
    path.unlink()
    with pytest.raises(BadInputError, match="neither"):
        load_model(folder)
    for text in ("", "{", "[]", "\xff"):
        (folder / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(BadInputError, match=r"config\.json"):
            load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(BadInputError, match=r"config\.json cannot be read"):
        load_model(folder)


def test_damaged_index(hf, tmp_path):
    hf.save(tmp_path, hf.model(), max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    good = json.loads(index.read_text())["weight_map"]
    name = "model.norm.weight"
    others = {place for place in good.values() if place != good[name]}
    cases = [
        ({name: ...}, f"lacks weight '{name}'"),
        ({name: sorted(others)[0]}, f"lacks '{name}'"),
        ({name: "absent.safetensors"}, r"absent\.safetensors: no such file"),
        ({name: "../up.safetensors"}, "not a file beside it"),
    ]
    for change, words in cases:
        places = {k: v for k, v in (good | change).items() if v is not ...}
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(BadInputError, match=words):
            load_model(tmp_path)


@pytest.mark.parametrize(
    ("special", "template", "fits"),
    [
        ({"pad_token": "[NEW]"}, "{{ messages }}", True),  # is in no prompt
        ({"pad_token": "[NEW]"}, "{{ messages }}[NEW]", False),
        ({"pad_token": "[NEW]", "eos_token": "[NEW]"}, "{{ messages }}", False),
        ({"additional_special_tokens": ["[NEW]"]}, "{{ messages }}", False),
    ],
)
def test_a_token_beyond_the_embedding(hf, tmp_path, special, template, fits):
    hf.model(vocab_size=63).save_pretrained(tmp_path)
    tokenizer = hf.tokenizer()
    tokenizer.add_special_tokens(special)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    if fits:
        assert load_model(tmp_path).tokenizer.vocab_size == 64
        return
    with pytest.raises(BadInputError, match=r"has 64 tokens, but .* has 63 rows"):
        load_model(tmp_path)


def test_fingerprint_sees_every_bit():
    weights = {"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 3), np.float32)}
    first = weights_fingerprint(weights)
    assert weights_fingerprint(dict(reversed(weights.items()))) == first
    changed = {n: w.copy() for n, w in weights.items()}
    changed["a"][5] = np.nextafter(changed["a"][5], np.float32(9))
    assert weights_fingerprint(changed) != first
    assert weights_fingerprint(weights | {"b": np.ones((3, 2), np.float32)}) != first
    assert weights_fingerprint({"a": weights["a"]}) != first


def test_full_expert(hf, tmp_path, same_weights):
    base = load_model(hf.save(tmp_path / "base", hf.model()))
    model = hf.model(seed=1)
    expert = load_expert(hf.save(tmp_path / "expert", model), base)
    same_weights(expert.weights, hf.weights(model))
    assert expert.fingerprint == FullExpert(dict(expert.weights)).fingerprint


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_an_expert_is_read_one_array_at_a_time(hf, tmp_path, monkeypatch, shard):
    import torch

    base = load_model(hf.save(tmp_path / "base", hf.model(tie_word_embeddings=True)))
    model = hf.model(seed=1, tie_word_embeddings=True).to(torch.bfloat16)
    hf.save(tmp_path / "expert", model, max_shard_size=shard)
    reads, read = [], StoredWeights.__getitem__

    def noted(self, name):
        reads.append(name)
        return read(self, name)

    monkeypatch.setattr(StoredWeights, "__getitem__", noted)
    expert = load_expert(tmp_path / "expert", base)
    assert "model.norm.weight" in expert.weights
    assert list(expert.weights) == list(base.config.weight_shapes())
    assert not reads
    fingerprint = expert.fingerprint
    assert reads == sorted(expert.weights)
    held = dict(expert.weights)
    assert {w.dtype.name for w in held.values()} == {"bfloat16"}
    assert FullExpert(held).fingerprint == fingerprint
    held["model.norm.weight"][0] = 9.0  # what was read is the reader's own copy
    assert expert.weights["model.norm.weight"][0] != 9.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"intermediate_size": 48}, "intermediate_size is 48"),
        ({"rope_theta": 5e5}, "rope_theta is 500000.0"),
    ],
)
def test_experts_of_another_base_are_refused(hf, tmp_path, changes, words):
    base = load_model(hf.save(tmp_path / "base", hf.model()))
    folder = hf.save(tmp_path / "expert", hf.model(**changes))
    with pytest.raises(BadInputError, match=words):
        load_expert(folder, base)


def test_no_expert_there(hf, tmp_path):
    base = load_model(hf.save(tmp_path / "base", hf.model()))
    with pytest.raises(BadInputError, match="no such folder"):
        load_expert(tmp_path / "absent", base)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="neither adapter_config"):
        load_expert(tmp_path / "empty", base)
