"""Copies in another dtype are copies; changed weights are not."""

import numpy as np
import peft
import pytest
import torch

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.loading import load_expert, load_model
from cycleqd_jax.models.rounding import is_rounded_copy

DTYPES = ("float32", "float16", "bfloat16")


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("trained", DTYPES)
@pytest.mark.parametrize("saved", DTYPES)
def test_whatever_dtypes_it_went_through(stored, trained, saved):
    values = torch.randn(64, 48, generator=torch.Generator().manual_seed(0)) * 0.02
    values[0, :8] = torch.logspace(-9, -2, 8)  # some are subnormal in float16
    base = values.to(getattr(torch, stored))
    copy = base.to(getattr(torch, trained)).to(getattr(torch, saved))
    changed = (base.float() * 1.02).to(copy.dtype)
    for run in DTYPES:
        ours = as_numpy(base.to(getattr(torch, run)))
        assert is_rounded_copy(as_numpy(copy), ours)
        assert not is_rounded_copy(as_numpy(changed), ours)


def as_numpy(tensor):
    import ml_dtypes

    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def test_a_small_change_of_one_value_is_a_change():
    base = np.random.default_rng(0).normal(size=(64, 48)).astype(np.float32)
    copy = base.copy()
    copy[5, 7] *= 1.00001
    assert is_rounded_copy(base.copy(), base)
    assert not is_rounded_copy(copy, base)
    assert not is_rounded_copy(base[:-1], base)


@pytest.mark.parametrize(
    ("stored", "trained", "run"),
    [
        ("float16", "float16", "bfloat16"),
        ("float32", "float32", "bfloat16"),
        ("float16", "bfloat16", "float32"),
        ("float32", "bfloat16", "float32"),
        ("float32", "float16", "bfloat16"),
        ("bfloat16", "float32", "float16"),
    ],
)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_a_lora_on_the_embedding(hf, tmp_path, stored, trained, run):
    model = hf.model().to(getattr(torch, stored))
    base = load_model(hf.save(tmp_path / "base", model), dtype=run)
    settings = peft.LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"])
    adapted = peft.get_peft_model(model.to(getattr(torch, trained)), settings)
    adapted.save_pretrained(tmp_path / "adapter")
    expert = load_expert(tmp_path / "adapter", base)
    assert "model.embed_tokens.weight" in expert.factors and not expert.replacements
    with torch.no_grad():
        adapted.get_parameter(
            "base_model.model.model.embed_tokens.base_layer.weight"
        ).mul_(1.02)
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(BadInputError, match="brings a changed"):
        load_expert(tmp_path / "adapter", base)
