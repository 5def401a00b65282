import json
import warnings

import numpy as np
import pytest
import safetensors.numpy

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats.peft import LoraFactor
from cycleqd_jax.models.formats.peft_export import save_lora
from cycleqd_jax.models.loading import load_expert, load_model

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def base(hf, tmp_path):
    return load_model(hf.save(tmp_path / "base", hf.model()))


def make_adapter(folder, model, seed=3, **settings):
    """A PEFT adapter with random factors, and the weights it merges to."""
    import peft
    import torch

    settings = {"r": 4, "target_modules": ALL, "task_type": "CAUSAL_LM"} | settings
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model, peft.LoraConfig(**settings))
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name or "modules_to_save" in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.2)
        adapted.save_pretrained(folder)
        merged = adapted.merge_and_unload()
    return {n: p.detach().numpy() for n, p in merged.named_parameters()}


def assert_sums_to(expert, base, merged):
    for name, weight in base.weights.items():
        expected = merged[name] - weight
        if name in expert.factors:
            b, a, scale = expert.factors[name]
            assert b.dtype == a.dtype == np.float32 and isinstance(scale, float)
            np.testing.assert_allclose(scale * (b @ a), expected, atol=2e-6)
            assert np.abs(expected).max() > 1e-3
        elif name in expert.replacements:
            np.testing.assert_array_equal(expert.replacements[name], merged[name])
        else:
            assert not expected.any(), name


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lora_alpha": 3, "use_rslora": True},
        {
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7},
            "alpha_pattern": {"q_proj": 5, "^model.layers.0.mlp.down_proj": 0.5},
            "lora_alpha": 16,
        },
        {"rank_pattern": {r"layers\.0\..*proj": 1}, "use_rslora": True},
        {"target_modules": r".*\.1\.(self_attn|mlp)\.(q|v|down)_proj"},
        {"target_modules": "all-linear"},
        {"target_modules": "all-linear", "exclude_modules": ["o_proj"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["mlp"]},
        {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
        {"target_modules": ["q_proj"], "init_lora_weights": "mica"},
    ],
    ids=lambda settings: ",".join(settings) or "plain",
)
def test_adapters_made_by_peft(hf, base, tmp_path, settings):
    merged = make_adapter(tmp_path / "adapter", hf.model(), **settings)
    assert_sums_to(load_expert(tmp_path / "adapter", base), base, merged)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": "all-linear", "exclude_modules": ["o_proj"]},
        {"target_modules": r"layers\.1\..*(q|up)_proj"},
        {"target_modules": ["q_proj"], "rank_pattern": {"^layers.0.self_attn": 2}},
        {
            "rank_pattern": {r"^layers\.0\..*": 2},
            "alpha_pattern": {r"^layers\.1\..*": 3},
        },
        {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["norm"]},
        {"target_modules": ["layers.0.self_attn.q_proj", "lm_head"]},
    ],
    ids=lambda settings: ",".join(settings) or "plain",
)
def test_adapters_of_a_model_without_its_head(hf, base, tmp_path, settings):
    """`LlamaModel` has the names of `LlamaForCausalLM` without their "model."."""
    settings = settings | {"task_type": "FEATURE_EXTRACTION"}
    merged = make_adapter(tmp_path / "adapter", hf.model().model, **settings)
    names = safetensors.numpy.load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert not any(name.startswith("base_model.model.model.") for name in names)
    merged = {f"model.{name}": weight for name, weight in merged.items()}
    merged["lm_head.weight"] = base.weights["lm_head.weight"]
    assert_sums_to(load_expert(tmp_path / "adapter", base), base, merged)


def test_adapters_without_the_prefix_of_peft(hf, base, tmp_path):
    """`save_pretrained(save_peft_format=False)` of transformers leaves it out."""
    targets = ["q_proj", "lm_head", "embed_tokens"]
    merged = make_adapter(tmp_path / "adapter", hf.model(), target_modules=targets)
    path = tmp_path / "adapter/adapter_model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors = {n.removeprefix("base_model.model."): t for n, t in tensors.items()}
    safetensors.numpy.save_file(tensors, path)
    assert_sums_to(load_expert(tmp_path / "adapter", base), base, merged)


@pytest.fixture
def adapter(hf, tmp_path):
    make_adapter(tmp_path / "adapter", hf.model())
    return tmp_path / "adapter"


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "change",
    [
        {"fan_in_fan_out": True},  # PEFT ignores it for linear layers
        {"lora_dtype": "float32", "lorap_emb_lr": 1e-6},  # ms-swift's
        {"base_model_name_or_path": None, "auto_mapping": {"unsloth_fixed": True}},
    ],
)
def test_settings_that_change_nothing(base, adapter, change):
    before = load_expert(adapter, base).fingerprint
    edit(adapter, **change)
    assert load_expert(adapter, base).fingerprint == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"something_new": "x"}, "something_new = 'x'"),
        ({"r": 8}, r"rank 8, but has \(32, 4\)"),
        ({"r": "x"}, "r: .*valid integer.*'x'"),
        ({"r": 0}, "r: .*greater than 0.*: 0"),
        ({"lora_alpha": None}, "lora_alpha: .*valid number.*empty"),
        ({"rank_pattern": {"(": 3}}, "not a regular expression"),
        ({"target_modules": ["q_proj"]}, "does not target"),
        ({"modules_to_save": ["lm_head"]}, "lacks 'lm_head.weight', which"),
    ],
)
def test_other_kinds_and_wrong_settings_are_refused(base, adapter, change, words):
    edit(adapter, **change)
    with pytest.raises(BadInputError, match=words):
        load_expert(adapter, base)


def test_an_adapter_of_another_base_is_refused(hf, tmp_path, adapter):
    for change, words in [
        ({"hidden_size": 40}, r"for the base's \(40, 64\).*has \(32, 4\)"),
        ({"num_hidden_layers": 1}, "layers.1.*not a linear layer"),
        ({"num_hidden_layers": 3}, "lacks the factors of 'model.layers.2"),
    ]:
        folder = hf.save(tmp_path / f"base{len(words)}", hf.model(**change))
        with pytest.raises(BadInputError, match=words):
            load_expert(adapter, load_model(folder))


def test_damaged_adapters(base, adapter):
    path = adapter / "adapter_model.safetensors"
    whole = path.read_bytes()
    tensors = safetensors.numpy.load(whole)
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    for change, words in [
        ({name: None}, "only one of the two factors"),
        ({name: tensors[name][0]}, "should be a matrix"),
        ({name: tensors[name].astype(np.int32)}, "not floating"),
        ({"x.y": tensors[name]}, "does not begin with"),
        ({name[:-6] + "magnitude": tensors[name]}, "of a kind that is not supported"),
        ({"base_model.model.score.weight": tensors[name]}, "maps to nothing"),
        ({"base_model.model.model.norm.weight": np.ones(32, "f4")}, "modules_to_save"),
    ]:
        changed = {n: t for n, t in (tensors | change).items() if t is not None}
        safetensors.numpy.save_file(changed, path)
        with pytest.raises(BadInputError, match=words):
            load_expert(adapter, base)
    path.write_bytes(whole[:-5])
    with pytest.raises(BadInputError, match=r"adapter_model\.safetensors"):
        load_expert(adapter, base)
    path.unlink()
    with pytest.raises(BadInputError, match=r"lacks adapter_model\.safetensors"):
        load_expert(adapter, base)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(BadInputError, match=r"adapter_config\.json"):
        load_expert(adapter, base)


def random_factors(base, names, rank=3, scale=0.7, seed=0):
    rng = np.random.default_rng(seed)
    factors = {}
    for name in names:
        rows, columns = base.weights[name].shape
        b = rng.normal(size=(rows, rank)).astype(np.float32)
        a = rng.normal(size=(rank, columns)).astype(np.float32)
        factors[name] = LoraFactor(b, a, scale)
    return factors


@pytest.mark.parametrize("case", ["uniform", "mixed", "some layers", "embedding"])
def test_saved_adapters_load_in_peft(hf, base, tmp_path, case):
    import peft

    layers = [n for n in base.weights if n.endswith("_proj.weight")]
    factors = random_factors(base, layers)
    if case == "mixed":
        factors |= random_factors(base, layers[3:5], rank=5, scale=1 / 3)
        factors |= random_factors(base, layers[8:9], rank=1, scale=-2.5)
    if case == "some layers":
        factors = random_factors(base, layers[8:10] + layers[1:2])
    if case == "embedding":
        factors = random_factors(base, ["model.embed_tokens.weight", "lm_head.weight"])
    save_lora(tmp_path / "a", factors, base_name="the-base", card="# A card")
    expert = load_expert(tmp_path / "a", base)
    assert expert.factors.keys() == factors.keys()
    for name, (b, a, scale) in factors.items():
        np.testing.assert_array_equal(expert.factors[name].b, b)
        np.testing.assert_array_equal(expert.factors[name].a, a)
        assert expert.factors[name].scale == pytest.approx(scale, rel=1e-15)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.PeftModel.from_pretrained(hf.model(), tmp_path / "a")
        merged = adapted.merge_and_unload()
    merged = {n: p.detach().numpy() for n, p in merged.named_parameters()}
    for name, weight in base.weights.items():
        b, a, scale = factors.get(name, (np.zeros(1), np.zeros(1), 0.0))
        change = scale * (b @ a)
        np.testing.assert_allclose(merged[name], weight + change, atol=1e-5)


def test_saving_is_reproducible_and_rounds_only_to_the_stored_type(base, tmp_path):
    import ml_dtypes

    names = [n for n in base.weights if "q_proj" in n]
    factors = random_factors(base, names)
    for folder in ("a", "b"):
        save_lora(tmp_path / folder, factors, base_name="x", card="c", dtype="bfloat16")
        factors = dict(reversed(factors.items()))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    loaded = load_expert(tmp_path / "a", base)
    for name, factor in factors.items():
        rounded = factor.b.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(loaded.factors[name].b, rounded)
    assert loaded.fingerprint == load_expert(tmp_path / "b", base).fingerprint
    card = (tmp_path / "a" / "README.md").read_text()
    assert card.startswith("---\nbase_model:") and card.endswith("c\n")


def test_fingerprint_sees_factors_and_scale(base, tmp_path):
    names = [n for n in base.weights if "q_proj" in n]
    seen = set()
    for i, (scale, seed) in enumerate([(1.0, 0), (1.5, 0), (1.0, 1)]):
        factors = random_factors(base, names, scale=scale, seed=seed)
        save_lora(tmp_path / str(i), factors, base_name="x", card="")
        seen.add(load_expert(tmp_path / str(i), base).fingerprint)
    assert len(seen) == 3


def test_bad_factors_are_not_saved(base, tmp_path):
    with pytest.raises(BadInputError, match="at least one factor"):
        save_lora(tmp_path, {}, base_name="x", card="")
    odd = LoraFactor(np.ones((3, 2)), np.ones((4, 3)), 1.0)
    with pytest.raises(BadInputError, match="differ in rank"):
        save_lora(tmp_path, {"x.weight": odd}, base_name="x", card="")
    with pytest.raises(BadInputError, match="expected matrices"):
        save_lora(tmp_path, {"x.bias": odd}, base_name="x", card="")
    assert not list(tmp_path.glob("adapter*"))
