"""LoRA training against PyTorch and PEFT, step by step."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from forward import full_logits

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.llama.program import LlamaProgram
from cycleqd_jax.training import lora, step
from cycleqd_jax.training.batches import Batch
from cycleqd_jax.training.settings import LoraSettings, OptimiserSettings

SETTINGS = LoraSettings(rank=3, alpha=6.0, targets=("q_proj", "down_proj"))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 64, (2, 9), np.int32)
    positions = np.array([[3, 4, 5], [5, 6, 0]], np.int32)
    targets = np.take_along_axis(tokens, positions + 1, axis=1)
    return Batch(tokens, positions, targets, np.array([[1, 1, 1], [1, 1, 0.0]]))


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # PEFT's
def test_one_step_equals_torch_adamw_on_a_peft_model(torch_model, twin, batch):
    program, weights = twin
    factors = lora.init_factors(program, SETTINGS, jax.random.key(1))
    # B starts at zero, where A has no gradient: begin a little later instead.
    factors = jax.tree.map(lambda x: x + 0.05, factors)
    optimiser = step.make_optimiser(
        OptimiserSettings(
            learning_rate=0.01,
            warmup_steps=0,
            steps=1000,
            final_fraction=1.0,
            weight_decay=0.1,
            max_grad_norm=0.5,
        )
    )
    start = lora.as_stored(factors, 2.0)
    got, metrics = step.train_step(
        step.init_state(factors, optimiser),
        weights,
        batch,
        program=program,
        method=lora.Lora(scale=2.0),
        optimiser=optimiser,
    )

    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"])
    adapted = peft.get_peft_model(copy.deepcopy(torch_model), config)
    modules = dict(adapted.named_modules())
    halves = []
    for name, (b, a, _) in start.items():
        module = modules["base_model.model." + name.removesuffix(".weight")]
        for half, value in ((module.lora_A, a), (module.lora_B, b)):
            half["default"].weight.data = torch.tensor(value)
            halves.append(half["default"].weight)
    logits = adapted(torch.tensor(batch.tokens, dtype=torch.long)).logits
    index = torch.tensor(batch.positions, dtype=torch.long)
    picked = torch.take_along_dim(logits, index[..., None], dim=1)
    losses = torch.nn.functional.cross_entropy(
        picked.flatten(0, 1),
        torch.tensor(batch.targets, dtype=torch.long).flatten(),
        reduction="none",
    )
    mask = torch.tensor(batch.mask).flatten()
    loss = (losses * mask).sum() / mask.sum()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(halves, 0.5)
    # Optax's AdamW multiplies the decay by the rate, as torch does.
    torch.optim.AdamW(halves, lr=0.01, weight_decay=0.1, eps=1e-8).step()

    assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    assert float(metrics["grad_norm"]) == pytest.approx(norm.item(), rel=1e-4)
    for name, (b, a, _) in lora.as_stored(got.params, 2.0).items():
        module = modules["base_model.model." + name.removesuffix(".weight")]
        for value, half in ((a, module.lora_A), (b, module.lora_B)):
            want = half["default"].weight.detach().numpy()
            np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-5)


def test_a_fresh_adapter_changes_nothing(twin, batch):
    program, weights = twin
    factors = lora.init_factors(program, SETTINGS, jax.random.key(0))
    deltas = lora.as_deltas(factors, SETTINGS.scale)
    np.testing.assert_array_equal(
        full_logits(program, weights, batch.tokens, deltas),
        full_logits(program, weights, batch.tokens),
    )
    assert len(factors) == 4
    a = np.concatenate([f["a"].ravel() for f in factors.values()])
    assert 0.2 < np.abs(a).max() <= 0.25  # 1 / sqrt(16)


def test_unknown_targets_are_refused(twin):
    settings = LoraSettings.model_construct(targets=("q_proj", "input_layernorm"))
    with pytest.raises(BadInputError, match="input_layernorm"):
        lora.init_factors(twin[0], settings, jax.random.key(0))


def test_initial_values_may_be_normal(twin):
    settings = LoraSettings(
        rank=8, alpha=4.0, targets=("q_proj", "down_proj"), init_std=0.5
    )
    factors = lora.init_factors(twin[0], settings, jax.random.key(0))
    a = np.concatenate([f["a"].ravel() for f in factors.values()])
    assert np.std(a) == pytest.approx(0.5, rel=0.1) and np.abs(a).max() > 1.0
    assert not any(np.any(f["b"]) for f in factors.values())


def test_biases_of_targeted_layers_are_not_adapted(twin):
    config = twin[0].config.model_copy(update={"attention_bias": True})
    program = LlamaProgram(config)
    assert "model.layers.0.self_attn.q_proj.bias" in program.config.weight_shapes()
    names = lora.target_names(program, SETTINGS)
    assert len(names) == 4 and all(name.endswith(".weight") for name in names)


def test_all_linear_layers_are_adapted_by_default(twin):
    """As PEFT's all-linear: neither the embedding nor an output head of its own."""
    config = twin[0].config.model_copy(update={"tie_word_embeddings": False})
    program = LlamaProgram(config)
    assert "lm_head.weight" in program.config.weight_shapes()
    names = lora.target_names(program, LoraSettings())
    kinds = {name.split(".")[-2] for name in names}
    assert kinds == {f"{kind}_proj" for kind in "q k v o gate up down".split()}
    assert len(names) == 7 * config.num_hidden_layers


@pytest.mark.parametrize("target", ["lm_head", "c_attn", "embed_tokens"])
def test_targets_that_are_no_linear_layer_are_refused(twin, target):
    settings = LoraSettings(targets=("q_proj", target))
    with pytest.raises(BadInputError, match=rf"'{target}'.* are down_proj, gate"):
        lora.target_names(twin[0], settings)


def test_in_bfloat16_the_factors_stay_float32(twin, batch):
    program, weights = twin
    half = LlamaProgram(program.config, jnp.bfloat16)
    optimiser = step.make_optimiser(
        OptimiserSettings(
            learning_rate=0.01,
            warmup_steps=0,
            steps=10,
            final_fraction=1.0,
            weight_decay=0.0,
            max_grad_norm=1.0,
        )
    )
    factors = lora.init_factors(half, SETTINGS, jax.random.key(1))
    state, metrics = step.train_step(
        step.init_state(factors, optimiser),
        {name: jnp.asarray(w, jnp.bfloat16) for name, w in weights.items()},
        batch,
        program=half,
        method=lora.Lora(SETTINGS.scale),
        optimiser=optimiser,
    )
    assert np.isfinite(float(metrics["loss"]))
    assert all(x.dtype != jnp.bfloat16 for x in jax.tree.leaves(state))
    assert all(np.any(f["b"]) for f in state.params.values())
