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
@pytest.mark.parametrize("widened", [False, True])
def test_whatever_dtypes_it_went_through(stored, trained, widened):
    values = torch.randn(64, 48, generator=torch.Generator().manual_seed(0)) * 0.02
    values[0, :8] = torch.logspace(-9, -2, 8)  # some are subnormal in float16
    base = values.to(getattr(torch, stored))
    copy = base.to(getattr(torch, trained))
    if widened:  # before it was saved
        copy = copy.float()
    for run in DTYPES:
        ours = as_numpy(base.to(getattr(torch, run)))
        assert is_rounded_copy(as_numpy(copy), ours)


@pytest.mark.parametrize("trained", DTYPES)
@pytest.mark.parametrize("run", DTYPES)
def test_the_smallest_change_of_one_value_is_a_change(trained, run):
    base = torch.randn(64, 48, generator=torch.Generator().manual_seed(0)) * 0.02
    base[5, 7] = 0.015  # near no middle between two values of any dtype
    coarse = min(trained, run, key=DTYPES[::-1].index)
    dtype = getattr(torch, coarse)
    changed = base.clone()
    changed[5, 7] = torch.nextafter(base[5, 7].to(dtype), torch.tensor(1.0).to(dtype))
    copy = as_numpy(changed.to(getattr(torch, trained)))
    ours = as_numpy(base.to(getattr(torch, run)))
    assert not is_rounded_copy(copy, ours)
    copy[5, 7] = ours[5, 7] if trained == coarse else base[5, 7]
    assert is_rounded_copy(copy, ours)


def as_numpy(tensor):
    import ml_dtypes

    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def test_other_shapes_are_no_copies():
    base = np.ones((3, 4), np.float32)
    assert is_rounded_copy(base, base.copy())
    assert not is_rounded_copy(base, base.T) and not is_rounded_copy(base[:-1], base)


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
