"""GGUF files of Hugging Face folders: other readers compute and cut text as before."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import sam_twin
import torch
import transformers
from forward import full_logits
from small_models import MODELS, SIZES, YARN, make_folder, make_tokenizer
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.families import (
    any_config_from_hf,
    config_from_hf,
    make_program,
)
from cycleqd_jax.models.formats.gguf_export import export_gguf
from cycleqd_jax.models.formats.gguf_header import header_of_model
from cycleqd_jax.models.loading import load_model
from cycleqd_jax.models.tokenizer import ChatTokenizer

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
LOUDER = YARN | {"attention_factor": 2.0}
# Root of the mean square, as a share: Q8_0 keeps 8 bits of every number.
NEAR = {"F16": 1e-5, "Q8_0": 0.06}
PLAIN = ("The cat's mat, 1 plus 2.", "def f(x):\n    return x", "Größe déjà vu 日本")


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory):
    """The name of a model, the model, and its GGUF file of type F16."""
    folder = make_folder(tmp_path_factory.mktemp("gguf") / "m", request.param)
    model = load_model(folder)
    return request.param, model, export(model, folder.with_suffix(".gguf"))


def export(model, path, kind="F16"):
    header = header_of_model(model.config, model.tokenizer)
    export_gguf(path, header, model.weights, kind)
    return path


def logits_of(model, tokens):
    weights = {name: jnp.asarray(w) for name, w in model.weights.items()}
    return np.asarray(full_logits(make_program(model.config), weights, tokens))


def distance(got, want):
    return np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))


def test_the_same_logits_come_back(exported):
    """By itself transformers reads no rope scaling and no biases of a file."""
    name, model, path = exported
    tokens = np.random.default_rng(1).integers(0, 300, (1, 90), np.int32)
    want, back = logits_of(model, tokens), load_model(path)
    assert back.config.tie_word_embeddings == model.config.tie_word_embeddings
    assert distance(logits_of(back, tokens), want) < NEAR["F16"]
    config = AutoConfig.for_model(**back.config.to_hf())
    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, config=config
    )
    with torch.no_grad():
        found = theirs(torch.tensor(tokens.astype(np.int64))).logits.numpy()
    assert distance(found, want) < NEAR["F16"]
    if name in ("llama3", "qwen3"):
        eight = load_model(export(model, path.with_name("q.gguf"), "Q8_0"))
        assert distance(logits_of(eight, tokens), want) < NEAR["Q8_0"]


def test_the_same_tokens_come_back(exported):
    name, model, path = exported
    ours, back = model.tokenizer, load_model(path).tokenizer
    chat = [{"role": "user", "content": "The cat's <call> 123"}]
    assert back.encode_chat(chat) == ours.encode_chat(chat)
    assert back.stop_ids == ours.stop_ids and len(ours.stop_ids) == 2
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert theirs.chat_template == ours.hf.chat_template
    if MODELS[name][1] == "metaspace":  # plain text gets no space in front of it
        return
    for text in PLAIN:
        assert back.encode_text(text) == ours.encode_text(text)
        assert theirs(text).input_ids == ours.hf(text).input_ids


def test_tokens_that_experts_added_are_in_the_file(tmp_path):
    folder = make_folder(tmp_path / "base", "qwen2")
    shutil.copytree(folder, tmp_path / "expert")
    tokenizer = make_tokenizer("qwen2")
    tokenizer.add_tokens(["<act>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "expert")
    model = load_model(folder, experts=[tmp_path / "expert"], vocabulary="union")
    back = load_model(export(model, tmp_path / "m.gguf"))
    (token,) = model.added
    assert back.tokenizer.encode("a<act>")[-1] == token
    assert back.config.vocab_size == model.config.vocab_size
    row = "model.embed_tokens.weight"
    np.testing.assert_array_equal(
        back.weights[row][token], np.float32(np.float16(model.weights[row][token]))
    )


def test_a_context_is_at_most_the_window(exported):
    name, model, path = exported
    longest = 100 if name == "mistral" else model.config.max_position_embeddings
    assert load_model(path).config.max_position_embeddings == longest


def punctuation(data):
    steps = [{"type": "Punctuation", "behavior": "Isolated"}, data["pre_tokenizer"]]
    steps = [step for step in steps if step]
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}


def takes_spaces(data):
    data["added_tokens"][-1]["rstrip"] = True


def fewer_merges(data):
    data["model"]["merges"].pop()


def other_words(data):
    data["model"] = {
        "type": "WordLevel",
        "unk_token": "<unk>",
        "vocab": data["model"]["vocab"],
    }


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("llama-bpe", punctuation, "the pre-tokeniser .*Punctuation.* is none that"),
        ("llama-bpe", other_words, "a tokeniser of type WordLevel is not written"),
        ("qwen2", takes_spaces, "this tokeniser cuts 'x <call> y<call>z' into"),
        ("sentencepiece", fewer_merges, "its merges are not those that SentencePiece"),
        ("sentencepiece", punctuation, "a SentencePiece tokeniser that begins with"),
    ],
)
def test_tokenisers_that_no_file_holds(kind, change, says):
    hf = make_tokenizer(kind)
    data = json.loads(hf.backend_tokenizer.to_str())
    change(data)
    odd = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(data)), eos_token=hf.eos_token
    )
    config = config_from_hf(
        transformers.LlamaConfig(vocab_size=len(hf), **SIZES).to_dict()
    )
    with pytest.raises(BadInputError, match=f"^GGUF file: {says}.*without a GGUF"):
        header_of_model(config, ChatTokenizer(odd))


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("Qwen2", {"rope_parameters": DYNAMIC}, "rope_scaling of type 'dynamic' is"),
        ("Qwen2", {"rope_parameters": LOUDER}, "rope_scaling.attention_factor of yarn"),
        ("Qwen2", {"head_dim": 32}, "a qwen2 with head_dim other than hidden_size"),
        ("Qwen3", {"attention_bias": True}, "a qwen3 with attention_bias = true is"),
    ],
)
def test_models_that_llama_cpp_computes_otherwise(name, changes, says):
    made = getattr(transformers, f"{name}Config")(vocab_size=400, **(SIZES | changes))
    config = config_from_hf(made.to_dict())
    with pytest.raises(BadInputError, match=f"^GGUF file: {says}"):
        header_of_model(config, ChatTokenizer(make_tokenizer("qwen2")))


def test_a_family_without_gguf_files_is_refused():
    config = any_config_from_hf(sam_twin.hf_config().to_dict())
    with pytest.raises(BadInputError, match=r"^GGUF file: model_type 'sam'"):
        header_of_model(config, ChatTokenizer(make_tokenizer("qwen2")))
