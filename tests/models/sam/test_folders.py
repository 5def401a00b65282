"""SAM folders and LoRA adapters, in and out of `transformers` and PEFT."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import sam_twin
import torch
import transformers
from safetensors.numpy import load_file, save_file

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.expert_folders import open_segmentation_expert
from cycleqd_jax.models.experts import FullExpert
from cycleqd_jax.models.families import make_segmentation_program, read_config
from cycleqd_jax.models.formats.hf_folder import (
    export_segmentation_model,
    open_segmentation_model,
)
from cycleqd_jax.models.formats.peft import LoraFactor
from cycleqd_jax.models.formats.peft_export import export_adapter
from cycleqd_jax.models.loading import load_model
from cycleqd_jax.models.sam.config import SamConfig

ATTENTION = ["qkv", "q_proj", "v_proj", "out_proj"]
LORAS = {
    "attention": {"target_modules": ATTENTION},
    "all_linear": {"target_modules": "all-linear"},
    "one_layer": {"target_modules": ["qkv"], "layers_to_transform": 1},
    "patterns": {
        "target_modules": ["qkv", "lin1"],
        "rank_pattern": {"lin1": 2},
        "alpha_pattern": {"qkv": 5},
    },
    "whole_neck": {"target_modules": ["qkv"], "modules_to_save": ["neck"]},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder that `transformers` wrote, its model and an input."""
    folder = tmp_path_factory.mktemp("sam") / "base"
    model = sam_twin.hf_model(sam_twin.hf_config(), seed=1)
    model.save_pretrained(folder)
    return folder, model


@functools.partial(jax.jit, static_argnums=0, compiler_options=sam_twin.QUICK)
def masks_of(program, weights, pixels):
    image = program.embed_images(weights, pixels)
    return program.predict_masks(weights, image)[0]


def forward(program, weights) -> np.ndarray:
    weights = {name: jnp.asarray(w) for name, w in weights.items()}
    return np.asarray(masks_of(program, weights, sam_twin.images(2, 1)))


def close(got, want):
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_a_folder_goes_in_and_out_unchanged(saved, tmp_path):
    folder, model = saved
    config, weights = open_segmentation_model(folder)
    want = sam_twin.weights_of(model)
    assert weights.keys() == want.keys()
    assert all(np.array_equal(weights[name], want[name]) for name in want)
    export_segmentation_model(
        tmp_path / "out", config, weights, "# Card", max_shard_bytes=20_000
    )
    again = transformers.AutoModel.from_pretrained(tmp_path / "out")
    assert isinstance(again, transformers.SamModel)
    theirs = again.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(theirs[name], value), name
    assert SamConfig.from_hf(again.config.to_dict()) == config
    assert "pipeline_tag: mask-generation" in (tmp_path / "out/README.md").read_text()


def test_a_copy_of_the_shared_embedding_is_accepted_and_another_refused(
    saved, tmp_path
):
    folder, _ = saved
    arrays = load_file(folder / "model.safetensors")
    shared = arrays["shared_image_embedding.positional_embedding"]
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file(arrays | {sam_twin.SHARED_COPY: shared}, tmp_path / "model.safetensors")
    assert sam_twin.SHARED_COPY not in open_segmentation_model(tmp_path)[1]
    other = {sam_twin.SHARED_COPY: shared + 1}
    save_file(arrays | other, tmp_path / "model.safetensors")
    with pytest.raises(BadInputError, match="which differs from shared_image_embedd"):
        open_segmentation_model(tmp_path)


def test_missing_and_unknown_weights_are_named(saved, tmp_path):
    folder, _ = saved
    arrays = load_file(folder / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    less = {name: a for name, a in arrays.items() if "iou_token" not in name}
    save_file(less, tmp_path / "model.safetensors")
    with pytest.raises(BadInputError, match=r"lacks weight 'mask_decoder\.iou_token"):
        open_segmentation_model(tmp_path)
    more = arrays | {"vision_encoder.extra": np.zeros(3, np.float32)}
    save_file(more, tmp_path / "model.safetensors")
    with pytest.raises(BadInputError, match=r"extra.*nothing in a sam model"):
        open_segmentation_model(tmp_path)


def test_it_is_no_language_model(saved):
    for read in (read_config, load_model):
        with pytest.raises(BadInputError, match=r"'sam' is not supported; .*: llama"):
            read(saved[0])


def adapt(folder, model_folder, **settings) -> np.ndarray:
    """Writes a random adapter; returns the masks of PEFT's forward."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(
            transformers.SamModel.from_pretrained(model_folder),
            peft.LoraConfig(r=3, lora_alpha=6, **settings),
        ).eval()
        torch.manual_seed(4)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name or "modules_to_save" in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.3)
        adapted.save_pretrained(folder)
    return peft_masks(adapted)


def peft_masks(model) -> np.ndarray:
    with torch.no_grad():
        pixels = torch.tensor(sam_twin.images(2, 1))
        return model(pixel_values=pixels, multimask_output=False).pred_masks.numpy()


def adapted_weights(base, expert):
    weights = dict(base) | dict(expert.replacements)
    for name, (b, a, scale) in expert.factors.items():
        weights[name] = weights[name] + scale * (b @ a)
    return weights


@pytest.mark.parametrize("kind", LORAS)
def test_adapters_of_peft_give_its_masks(saved, tmp_path, kind):
    folder, model = saved
    want = adapt(tmp_path / "lora", folder, **LORAS[kind])
    config, base = open_segmentation_model(folder)
    expert = open_segmentation_expert(tmp_path / "lora", config, base)
    program = make_segmentation_program(config)
    close(forward(program, adapted_weights(base, expert)), want)
    assert np.abs(want - peft_masks(model)).max() > 1e-2 * np.abs(want).max()


def test_adapters_go_out_to_peft(saved, tmp_path):
    folder, _ = saved
    want = adapt(tmp_path / "lora", folder, **LORAS["all_linear"])
    config, base = open_segmentation_model(folder)
    expert = open_segmentation_expert(tmp_path / "lora", config, base)
    export_adapter(tmp_path / "out", expert.factors, folder, segmentation=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = peft.PeftModel.from_pretrained(
            transformers.SamModel.from_pretrained(folder), tmp_path / "out"
        ).eval()
    close(peft_masks(again), want)
    with pytest.raises(BadInputError, match=r"base .* has None"):
        wrong = {"vision_encoder.other.weight": next(iter(expert.factors.values()))}
        export_adapter(tmp_path / "no", wrong, folder, segmentation=True)
    table = LoraFactor(np.ones((4, 1)), np.ones((1, 16)), 1.0)
    with pytest.raises(BadInputError, match=r"mask_tokens.* export the whole model"):
        wrong = {"mask_decoder.mask_tokens.weight": table}
        export_adapter(tmp_path / "no", wrong, folder, segmentation=True)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("neck.conv2", r"neck\.conv2.* should be a matrix"),
        ("mask_tokens", r"mask_tokens', which is not a linear layer"),
    ],
)
def test_adapters_of_other_layers_are_refused(saved, tmp_path, target, sentence):
    folder, _ = saved
    adapt(tmp_path / "lora", folder, target_modules=[target])
    config, _ = open_segmentation_model(folder)
    with pytest.raises(BadInputError, match=sentence):
        open_segmentation_expert(tmp_path / "lora", config)


def test_full_experts_of_another_model_are_refused(saved, tmp_path):
    folder, _ = saved
    config, weights = open_segmentation_model(folder)
    expert = open_segmentation_expert(folder, config)
    assert isinstance(expert, FullExpert) and expert.weights.keys() == weights.keys()
    eps = config.vision_config.model_copy(update={"layer_norm_eps": 1e-3})
    other = config.model_copy(update={"vision_config": eps})
    with pytest.raises(BadInputError, match=r"vision_config.layer_norm_eps is 1e-06"):
        open_segmentation_expert(folder, other)
    with pytest.raises(BadInputError, match="no such folder"):
        open_segmentation_expert(tmp_path / "none", config)


def test_factors_of_two_experts_have_the_same_names(saved, tmp_path):
    """Names are those of `weight_shapes`, so that merging joins adapters and models."""
    folder, _ = saved
    adapt(tmp_path / "lora", folder, **LORAS["all_linear"])
    config, _ = open_segmentation_model(folder)
    expert = open_segmentation_expert(tmp_path / "lora", config)
    shapes = config.weight_shapes()
    assert expert.factors.keys() <= shapes.keys()
    assert not dataclasses.asdict(expert)["replacements"]
    for name, factor in expert.factors.items():
        assert (factor.b.shape[0], factor.a.shape[1]) == shapes[name]
