"""Experts with other rows or another head than their base, and what they merge to.

The reference merges NumPy arrays row by row and runs in `transformers`.
"""

import json
import warnings

import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from forward import full_logits
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.genome import scaled_sum
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.models.base import EMBEDDING, HEAD
from cycleqd_jax.models.expert_folders import open_experts
from cycleqd_jax.models.formats.hf_folder import export_model
from cycleqd_jax.models.formats.safetensors import StoredWeights
from cycleqd_jax.models.joining import join
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.llama.program import LlamaProgram
from cycleqd_jax.models.loading import (
    load_expert,
    load_model,
    load_tokenizer,
)
from cycleqd_jax.models.own_experts import open_own
from cycleqd_jax.models.sharding import put_on_device

ROWS, WORDS, FACTOR = 64, 63, 0.75  # the base's row 63 is padding
BOTH = ["embed_tokens", "lm_head"]


def state(model):
    return {n: p.detach().float().numpy().copy() for n, p in model.state_dict().items()}


def make_tokenizer(hf, tokens=(), words=WORDS):
    tokenizer = hf.tokenizer()
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = data["model"]["vocab"]
    data["model"]["vocab"] = {token: i for token, i in vocab.items() if i < words}
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(data)),
        bos_token="<|start|>",
        eos_token="<|end|>",
        pad_token="<pad>",
        chat_template=tokenizer.chat_template,
    )
    made.add_tokens([AddedToken(t, special=True, normalized=False) for t in tokens])
    return made


def make_full(hf, folder, *, tied=False, seed=1, tokens=(), words=WORDS, rows=ROWS):
    """Saves a model with added tokens, padded to a multiple of `rows`."""
    model = hf.model(seed=seed, tie_word_embeddings=tied, vocab_size=words)
    tokenizer = make_tokenizer(hf, tokens, words)
    model.resize_token_embeddings(
        len(tokenizer), pad_to_multiple_of=rows, mean_resizing=False
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return state(model)


def make_adapter(hf, folder, *, tied=False, tokens=(), **settings):
    """Saves an adapter of the resized base, with random values."""
    model = hf.model(tie_word_embeddings=tied)
    tokenizer = make_tokenizer(hf, tokens)
    model.resize_token_embeddings(max(ROWS, len(tokenizer)), mean_resizing=False)
    settings = {"r": 2, "target_modules": ["q_proj"]} | settings
    found = state(model)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(task_type="CAUSAL_LM", **settings)
        adapted = peft.get_peft_model(model, config)
        torch.manual_seed(5)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
        adapted.save_pretrained(folder, save_embedding_layers=bool(tokens))
        tokenizer.save_pretrained(folder)
        # Merging would change both tables of a tied base; PEFT's forward does not.
        for name, module in adapted.base_model.model.named_modules():
            if hasattr(module, "get_delta_weight"):
                found[f"{name}.weight"] += module.get_delta_weight("default").numpy()
            elif hasattr(module, "modules_to_save"):
                saved = module.modules_to_save["default"].weight
                found[f"{name}.weight"] = saved.numpy().copy()
    return found


A, B = ("<tool>", "<sql>"), ("<sql>", "<x>")
# Whether the base is tied and the result is, and how the experts are made.
CASES = {
    "more, padded": (False, False, [
        (make_full, {"tokens": A}), (make_full, {"tokens": B, "rows": 1, "seed": 2}),
    ]),
    "fewer": (False, False, [
        (make_full, {"words": 60, "rows": 1}), (make_adapter, {}),
    ]),
    "untied experts of a tied base": (True, False, [
        (make_full, {"tokens": A}),
        (make_adapter, {"tied": True, "target_modules": ["q_proj", "embed_tokens"]}),
    ]),
    "tied expert of an untied base": (False, False, [
        (make_full, {"tokens": A, "tied": True}), (make_adapter, {"tokens": B}),
    ]),
    "all tied": (True, True, [
        (make_full, {"tokens": A, "tied": True}), (make_adapter, {"tied": True}),
    ]),
    "saved and adapted tables": (True, False, [
        (make_adapter, {"tied": True, "tokens": A, "modules_to_save": BOTH}),
        (make_adapter, {"tied": True, "tokens": B, "target_modules": BOTH}),
    ]),
}  # fmt: skip


def reference(base, experts, tokens, union):
    """The merged weights, by name; `tokens` are those that each expert added."""
    new = list(dict.fromkeys([*tokens[0], *tokens[1]])) if union else []
    merged = {}
    for name, weight in base.items():
        is_table = name in (EMBEDDING, HEAD)
        found = np.zeros((max(ROWS, WORDS + len(new)) if is_table else 0, 32))
        found[: len(weight) if is_table else 0] = weight if is_table else 0
        found = found if is_table else weight.astype(np.float64)
        for expert, own in zip(experts, tokens, strict=True):
            rows = len(weight)
            if is_table:  # padding of both is merged too
                rows = min(WORDS if own else ROWS, len(expert[name]))
            delta = expert[name][:rows].astype(np.float64) - weight[:rows]
            found[:rows] += FACTOR * delta
        for i, token in enumerate(new if is_table else ()):
            found[WORDS + i] = np.mean(
                [
                    expert[name][WORDS + own.index(token)]
                    for expert, own in zip(experts, tokens, strict=True)
                    if token in own
                ],
                axis=0,
            )
        merged[name] = torch.tensor(found, dtype=torch.float32)
    return merged


@pytest.mark.parametrize("vocabulary", ["base", "union"])
@pytest.mark.parametrize("case", CASES)
def test_merges_are_those_of_the_reference(hf, tmp_path, case, vocabulary):
    tied, result_tied, kinds = CASES[case]
    model = hf.model(tie_word_embeddings=tied)
    hf.save(tmp_path / "base", model)
    paths = [tmp_path / "a", tmp_path / "b"]
    states = [
        make(hf, path, **settings)
        for path, (make, settings) in zip(paths, kinds, strict=True)
    ]
    tokens = [settings.get("tokens", ()) for _, settings in kinds]
    want = reference(state(model), states, tokens, vocabulary == "union")

    base = load_model(tmp_path / "base", experts=paths, vocabulary=vocabulary)
    rows = len(want[EMBEDDING])
    assert base.config.vocab_size == rows
    assert base.config.tie_word_embeddings == result_tied
    experts = [load_expert(path, base) for path in paths]
    basis = compute_basis(base.weights, experts)
    weights = materialise(put_on_device(base.weights), basis, scaled_sum(basis, FACTOR))
    ids = np.arange(2 * rows).reshape(2, rows) * 7 % rows
    got = full_logits(LlamaProgram(base.config), weights, jnp.asarray(ids))

    theirs = LlamaForCausalLM(hf.model(vocab_size=rows).config).eval()
    theirs.load_state_dict(want)
    with torch.no_grad():
        logits = theirs(torch.tensor(ids)).logits.numpy()
    assert np.abs(got - logits).max() <= 1e-5 * np.abs(logits).max()

    planned, _ = open_experts(
        load_model(tmp_path / "base").config,
        load_tokenizer(tmp_path / "base"),
        paths,
        vocabulary,
    )
    assert planned.config == base.config


def test_the_tokeniser_of_a_union(hf, tmp_path):
    hf.save(tmp_path / "base", hf.model(tie_word_embeddings=True))
    make_full(hf, tmp_path / "a", tied=True, tokens=A)
    make_full(hf, tmp_path / "b", tied=True, tokens=B)
    own = make_tokenizer(hf, B)
    own.eos_token = "<x>"
    own.save_pretrained(tmp_path / "b")
    paths = [tmp_path / "a", tmp_path / "b"]
    base = load_model(tmp_path / "base", experts=paths)
    assert base.fingerprint == load_model(tmp_path / "base").fingerprint
    union = load_model(tmp_path / "base", experts=paths, vocabulary="union")
    assert base.is_own and not union.is_own
    assert union.tokenizer.encode("<tool><sql><x>") == [63, 64, 65]
    assert union.tokenizer.stop_ids == (*base.tokenizer.stop_ids, 65)
    export_model(tmp_path / "out", union.config, union.weights, union.tokenizer, "x")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs("W<sql>W", add_special_tokens=False).input_ids == [25, 64, 25]
    again = load_model(tmp_path / "out")
    assert again.fingerprint == union.fingerprint


def test_rows_are_read_in_parts_and_changes_are_seen(hf, tmp_path):
    """As a host of a mesh reads them; experts in bfloat16, the base in float32."""
    hf.save(tmp_path / "base", hf.model())
    model = hf.model(seed=1, vocab_size=70).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "a")
    make_tokenizer(hf, A).save_pretrained(tmp_path / "a")
    prints = []
    for vocabulary in ("base", "union"):
        base = load_model(
            tmp_path / "base", experts=[tmp_path / "a"], vocabulary=vocabulary
        )
        weights = load_expert(tmp_path / "a", base).weights
        assert isinstance(weights, StoredWeights)
        for name in (EMBEDDING, HEAD):
            for stored in (base.weights, weights):
                whole = stored[name]
                assert stored.outline(name) == (whole.shape, "float32")
                for rows in (slice(0, 9), slice(60, 64), slice(63, len(whole))):
                    part = stored.part(name, (rows, slice(None)))
                    np.testing.assert_array_equal(part, whole[rows])
        prints += [base.fingerprint, load_expert(tmp_path / "a", base).fingerprint]
        assert HEAD in weights and weights[HEAD].dtype == np.float32
    assert len(set(prints)) == 4


def test_a_base_in_memory(hf, tmp_path):
    """The tokens of a GGUF file, which are others."""
    weights = hf.weights(hf.model(tie_word_embeddings=True))
    hf.write_gguf(tmp_path / "base.gguf", weights, kind="F32")
    plain = load_model(tmp_path / "base.gguf")
    tokenizer = plain.tokenizer.hf
    tokenizer.add_tokens(["<tool>"])
    model = hf.model(seed=1, vocab_size=65, rms_norm_eps=1e-5)
    model.save_pretrained(tmp_path / "a")
    tokenizer.save_pretrained(tmp_path / "a")
    own = state(model)
    base = load_model(
        tmp_path / "base.gguf", experts=[tmp_path / "a"], vocabulary="union"
    )
    for name in (EMBEDDING, HEAD):
        got = base.weights[name]
        np.testing.assert_array_equal(got[:64], plain.weights[EMBEDDING])
        np.testing.assert_array_equal(got[64], own[name][64])
        fitted = load_expert(tmp_path / "a", base).weights[name]
        np.testing.assert_array_equal(fitted, own[name])


def renamed(tokenizer, old, new):
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = data["model"]["vocab"]
    data["model"]["vocab"] = {new.get(t, t): old.get(i, i) for t, i in vocab.items()}
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(data))
    return tokenizer


@pytest.mark.parametrize(
    ("change", "rows", "vocabulary", "words"),
    [
        (({}, {"W": "WW"}), 64, "base", r"token 25 .* is 'WW', but .* base .* is 'W'"),
        (({25: 63}, {}), 64, "base", r"has 'W' as 63, the base model's as 25"),
        (({}, {}), 66, "base", r"has 66 rows, the base model's 64, and .*no tokenizer"),
        (({}, {"<sql>": "<sql>"}), 64, "base", r"'<sql>' as 64, .* has 64 rows"),
        (({}, {}), 65, "union", r"the word 'word' \(63\), .* set vocabulary: base"),
    ],
)
def test_refusals(hf, tmp_path, change, rows, vocabulary, words):
    folder = tmp_path / "expert"
    hf.save(tmp_path / "base", hf.model())
    hf.model(vocab_size=rows).save_pretrained(folder)
    tokenizer = make_tokenizer(hf, A if "<sql>" in change[1] else ())
    if vocabulary == "union":
        data = json.loads(tokenizer.backend_tokenizer.to_str())
        data["model"]["vocab"]["word"] = 63
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(data))
    if rows != 66:
        renamed(tokenizer, *change).save_pretrained(folder)
    with pytest.raises(BadInputError, match=words):
        base = load_model(tmp_path / "base", experts=[folder], vocabulary=vocabulary)
        load_expert(folder, base)


def test_an_untied_expert_needs_an_untied_base(hf, tmp_path):
    hf.save(tmp_path / "base", hf.model(tie_word_embeddings=True))
    make_full(hf, tmp_path / "expert")
    base = load_model(tmp_path / "base")
    with pytest.raises(BadInputError, match="name it among the experts of a run"):
        load_expert(tmp_path / "expert", base)


def test_a_token_without_a_row(hf, tmp_path):
    """An adapter whose tokeniser has a token that none of its tables has."""
    hf.save(tmp_path / "base", hf.model())
    make_adapter(hf, tmp_path / "a")
    make_tokenizer(hf, A).save_pretrained(tmp_path / "a")
    with pytest.raises(BadInputError, match=r"'<sql>' as 64, but .* has 64 rows"):
        load_expert(tmp_path / "a", load_model(tmp_path / "base"))


class Biased(LlamaConfig):
    """A family whose head has a bias, with a value for each token."""

    def weight_shapes(self):
        """As of Llama, and the bias."""
        return super().weight_shapes() | {"lm_head.bias": (self.vocab_size,)}


@pytest.mark.parametrize("vocabulary", ["base", "union"])
def test_a_further_table_is_not_brought_to_other_rows(hf, tmp_path, vocabulary):
    hf.save(tmp_path / "base", hf.model())
    make_full(hf, tmp_path / "a", tokens=A)
    make_full(hf, tmp_path / "same", words=ROWS)
    base = load_model(tmp_path / "base")
    config = Biased(**base.config.model_dump())
    own = open_own(tmp_path / "a", config)
    words = rf"a: has {own.num_rows} rows in place of the base's 64.*lm_head.bias of a"
    with pytest.raises(BadInputError, match=words):
        join(config, base.tokenizer, [own], vocabulary)
    same = open_own(tmp_path / "same", config)
    join(config, base.tokenizer, [same], "base")
