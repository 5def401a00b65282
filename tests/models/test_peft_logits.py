"""Adapters made by PEFT: its own forward pass gives our logits, or they are refused."""

import dataclasses
import json
import warnings

import jax.numpy as jnp
import numpy as np
import peft
import pytest
import safetensors.numpy
import torch
from forward import full_logits

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.llama.program import LlamaProgram
from cycleqd_jax.models.loading import load_expert, load_model

TOKENS = np.arange(30).reshape(2, 15) * 7 % 64


@pytest.fixture(scope="module")
def bases(hf, tmp_path_factory):
    """Base models by whether they are tied, saved by transformers and loaded by us."""
    folder = tmp_path_factory.mktemp("bases")
    return {
        tied: load_model(
            hf.save(folder / str(tied), hf.model(tie_word_embeddings=tied))
        )
        for tied in (True, False)
    }


def adapt(hf, folder, *, tied=False, **settings):
    """Writes an adapter with random factors; returns the logits of PEFT's forward."""
    settings = {"r": 4, "target_modules": ["q_proj"]} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(
            hf.model(tie_word_embeddings=tied),
            peft.LoraConfig(task_type="CAUSAL_LM", **settings),
        ).eval()
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name or "modules_to_save" in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.2)
        adapted.save_pretrained(folder)
        reloaded = peft.PeftModel.from_pretrained(
            hf.model(tie_word_embeddings=tied), folder
        ).eval()
    with torch.no_grad():
        return reloaded(torch.tensor(TOKENS)).logits.numpy()


def our_logits(base, expert):
    weights = dict(base.weights) | dict(expert.replacements)
    for name, (b, a, scale) in expert.factors.items():
        weights[name] = weights[name] + scale * (b @ a)
    weights = {name: jnp.asarray(w) for name, w in weights.items()}
    return np.asarray(
        full_logits(LlamaProgram(base.config), weights, jnp.asarray(TOKENS))
    )


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BOTH = ["q_proj", "embed_tokens", "lm_head"]
LOADED = {
    "plain": {"target_modules": ALL},
    "rslora": {"use_rslora": True, "lora_alpha": 3},
    "rank_pattern": {
        "target_modules": ALL,
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7},
        "alpha_pattern": {"q_proj": 5, "^model.layers.0.mlp.down_proj": 0.5},
    },
    "regex": {"target_modules": r".*\.1\.(self_attn|mlp)\.(q|v|down)_proj"},
    "all_linear": {"target_modules": "all-linear"},
    "one_layer": {"layers_to_transform": 1},
    "first_layer": {"layers_to_transform": [0]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "embedding_rslora": {"target_modules": ["embed_tokens"], "use_rslora": True},
    "modules_to_save": {"modules_to_save": ["norm", "input_layernorm", "lm_head"]},
    "saved_embedding": {"modules_to_save": ["embed_tokens"]},
    "tied plain": {"target_modules": "all-linear"},
    "tied norm": {"modules_to_save": ["norm"]},
    "tied embedding": {
        "target_modules": ["q_proj", "embed_tokens"],
        "ensure_weight_tying": True,
    },
    "tied embedding and head": {"target_modules": BOTH, "ensure_weight_tying": True},
    "tied saved embedding": {
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
}


@pytest.mark.parametrize("case", LOADED)
def test_logits_are_those_of_peft(hf, bases, tmp_path, case):
    base = bases["tied" in case]
    want = adapt(hf, tmp_path, tied="tied" in case, **LOADED[case])
    got = our_logits(base, load_expert(tmp_path, base))
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    plain = our_logits(base, type(load_expert(tmp_path, base))({}))
    assert np.abs(got - plain).max() > 0.01  # the adapter is felt


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": BOTH},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
    ],
)
def test_changes_that_untie_a_tied_base(hf, bases, tmp_path, settings):
    want = adapt(hf, tmp_path, tied=True, **settings)
    with pytest.raises(BadInputError, match="changes the embedding and the head apart"):
        load_expert(tmp_path, bases[True])
    untied = load_model(bases[True].source, experts=[tmp_path])
    got = our_logits(untied, load_expert(tmp_path, untied))
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_tied_factors_of_different_scale_are_refused(hf, bases, tmp_path):
    adapt(hf, tmp_path, tied=True, **LOADED["tied embedding"])
    path = tmp_path / "adapter_config.json"
    data = json.loads(path.read_text()) | {"alpha_pattern": {"lm_head": 3}}
    path.write_text(json.dumps(data))
    with pytest.raises(BadInputError, match="apart"):
        load_expert(tmp_path, bases[True])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "use_dora is not supported"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"bias": "lora_only"}, "bias = 'lora_only'"),
        ({"lora_bias": True}, "lora_bias = True"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"layer_replication": [(0, 2), (0, 2)]}, "layer_replication"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_variants_of_lora_are_refused_by_name(hf, tmp_path, settings, words):
    biased = hf.model(attention_bias=True)
    base = load_model(hf.save(tmp_path / "base", biased))
    model = peft.get_peft_model(
        hf.model(attention_bias=True),
        peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", **settings),
    )
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(BadInputError, match=words):
        load_expert(tmp_path / "adapter", base)


KINDS = {
    "IA3": {"target_modules": ["k_proj", "down_proj"],
            "feedforward_modules": ["down_proj"]},
    "ADALORA": {"target_modules": ["q_proj"], "total_step": 10},
    "PREFIX_TUNING": {"num_virtual_tokens": 3},
    "PROMPT_TUNING": {"num_virtual_tokens": 3},
    "P_TUNING": {"num_virtual_tokens": 3},
    "ADAPTION_PROMPT": {"adapter_layers": 1, "adapter_len": 2},
    "LN_TUNING": {"target_modules": ["norm"]},
} | {
    kind: {"target_modules": ["q_proj"]}
    for kind in ("LOHA", "LOKR", "OFT", "BOFT", "VERA", "FOURIERFT", "HRA", "POLY",
                 "RANDLORA", "TRAINABLE_TOKENS")
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_other_kinds_are_refused_by_name(hf, bases, tmp_path, kind):
    config = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)]
    settings = config(task_type="CAUSAL_LM", **KINDS[kind])
    peft.get_peft_model(hf.model(), settings).save_pretrained(tmp_path)
    with pytest.raises(BadInputError, match=f"peft_type '{kind}' is not supported"):
        load_expert(tmp_path, bases[False])


def name_base(folder, name):
    path = folder / "adapter_config.json"
    data = json.loads(path.read_text()) | {"base_model_name_or_path": name}
    path.write_text(json.dumps(data))


def test_an_adapter_that_names_another_base_is_refused(hf, bases, tmp_path):
    adapt(hf, tmp_path / "adapter")
    other = hf.save(tmp_path / "other", hf.model(seed=5))
    copy = hf.save(tmp_path / "copy", hf.model().to(torch.bfloat16))
    base = bases[False]
    for name in (
        str(copy),
        base.source,
        "org/moved",
        "gone/with/wind",
        "~no/one",
        "n" * 999,
        "",
        None,
    ):
        name_base(tmp_path / "adapter", name)
        load_expert(tmp_path / "adapter", base)
    name_base(tmp_path / "adapter", str(other))
    with pytest.raises(BadInputError, match="trained on the base model") as caught:
        load_expert(tmp_path / "adapter", base)
    assert str(other) in str(caught.value) and base.source in str(caught.value)


LLAMA = "meta-llama/Meta-Llama-3.1-8B-Instruct"


@pytest.mark.parametrize(
    ("named", "source"),
    [
        ("Org/name", "org/Name@main"),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", LLAMA),
        ("unsloth/Llama-3.1-8B-Instruct-unsloth-bnb-4bit", LLAMA),
        ("unsloth/Llama-3.1-8B-Instruct-FP8-Dynamic", LLAMA),
        ("unsloth/llama-2-7b-chat-bnb-4bit", "meta-llama/Llama-2-7b-chat-hf"),
        ("hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", LLAMA),
        ("mirror/Meta-Llama-3.1-8B-Instruct", LLAMA),
    ],
)
def test_hub_names_of_mirrors_and_quantised_copies(hf, bases, tmp_path, named, source):
    adapt(hf, tmp_path)
    name_base(tmp_path, named)
    load_expert(tmp_path, dataclasses.replace(bases[False], source=source))


@pytest.mark.parametrize(
    "named",
    [
        "meta-llama/Meta-Llama-3.1-8B",
        "unsloth/Llama-3.1-8B-unsloth-bnb-4bit",
        "unsloth/llama-3-8b-Instruct-bnb-4bit",
        "unsloth/Hermes-3-Llama-3.1-8B",
    ],
)
def test_hub_names_of_other_models(hf, bases, tmp_path, named):
    adapt(hf, tmp_path)
    name_base(tmp_path, named)
    with pytest.raises(BadInputError, match=f"'{named}'.*'{LLAMA}'"):
        load_expert(tmp_path, dataclasses.replace(bases[False], source=LLAMA))


def test_a_folder_of_the_base_quantised_or_with_other_settings(hf, bases, tmp_path):
    adapt(hf, tmp_path / "adapter")
    folder = hf.save(tmp_path / "base", hf.model())
    name_base(tmp_path / "adapter", str(folder))
    file, settings = folder / "model.safetensors", folder / "config.json"
    tensors = safetensors.numpy.load_file(file)
    matrix = "model.layers.0.mlp.up_proj.weight"
    packed = {matrix: np.zeros((1024, 1), np.uint8), f"{matrix}.absmax": np.ones(16)}
    safetensors.numpy.save_file(tensors | packed, file)
    load_expert(tmp_path / "adapter", bases[False])
    data = json.loads(settings.read_text())
    settings.write_text(json.dumps(data | {"quantization_config": {"bits": 4}}))
    load_expert(tmp_path / "adapter", bases[False])
    data["rope_parameters"]["rope_theta"] = 7e4
    settings.write_text(json.dumps(data))
    with pytest.raises(BadInputError, match=r"its rope_theta is 70000\.0"):
        load_expert(tmp_path / "adapter", bases[False])


def test_an_adapter_with_another_vocabulary_is_refused(hf, bases, tmp_path):
    adapt(hf, tmp_path)
    tokenizer = hf.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    load_expert(tmp_path, bases[False])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})  # in no prompt
    tokenizer.save_pretrained(tmp_path)
    load_expert(tmp_path, bases[False])
    tokenizer.add_tokens(["zzz"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BadInputError, match=r"'zzz' as 64.* has 64 rows"):
        load_expert(tmp_path, bases[False])
