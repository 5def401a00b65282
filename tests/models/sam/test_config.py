"""The config.json of a SAM: read as `transformers` reads it, or refused."""

import pytest
import sam_twin
import transformers

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.sam.config import SamConfig

SIZES = {  # layers, width, heads, global layers
    "base": (12, 768, 12, [2, 5, 8, 11]),
    "large": (24, 1024, 16, [5, 11, 17, 23]),
    "huge": (32, 1280, 16, [7, 15, 23, 31]),
}


def sized(size: str) -> transformers.SamConfig:
    layers, width, heads, whole = SIZES[size]
    return transformers.SamConfig(
        vision_config={
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "global_attn_indexes": whole,
        }
    )


@pytest.mark.parametrize("size", [*SIZES, "tiny"])
def test_names_and_shapes_are_those_of_transformers(size):
    import torch

    config = sam_twin.hf_config() if size == "tiny" else sized(size)
    with torch.device("meta"):
        model = transformers.SamModel(config)
    want = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    del want[sam_twin.SHARED_COPY]
    assert SamConfig.from_hf(config.to_dict()).weight_shapes() == want


def test_both_spellings_of_transformers_files_give_one_config():
    """Its own files leave defaults out, files of the hub have all of them."""
    config = sized("huge")
    ours = SamConfig.from_hf(config.to_dict())
    assert SamConfig.from_hf(config.to_diff_dict()) == ours
    assert SamConfig.from_hf(ours.to_hf()) == ours
    assert ours.vision_config.mlp_dim == 5120
    assert (ours.image_size, ours.grid) == (1024, 64)


@pytest.mark.parametrize(
    ("part", "changes", "sentence"),
    [
        ("vision_config", {"hidden_act": "silu"}, "vision_config.hidden_act"),
        ("vision_config", {"image_size": [64, 32]}, "vision_config.image_size"),
        ("vision_config", {"patch_size": 7}, r"patch_size \(7\) must divide"),
        ("vision_config", {"num_pos_feats": 9}, r"num_pos_feats \(18\) must equal"),
        ("vision_config", {"num_attention_heads": 3}, "num_attention_heads"),
        ("vision_config", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("vision_config", {"mlp_dim": None, "mlp_ratio": "x"}, "mlp_ratio"),
        ("prompt_encoder_config", {"image_size": 32}, "prompt_encoder_config.image_"),
        ("prompt_encoder_config", {"hidden_size": 24}, "must equal vision_config"),
        ("prompt_encoder_config", {"num_point_embeddings": 3}, "num_point_embeddings"),
        ("mask_decoder_config", {"hidden_act": "selu"}, "mask_decoder_config.hidden"),
        ("mask_decoder_config", {"iou_head_depth": 1}, "iou_head_depth"),
        ("mask_decoder_config", {"attention_downsample_rate": 3}, "downsample rate"),
    ],
)
def test_what_is_not_computed_is_refused(part, changes, sentence):
    data = SamConfig.from_hf(sam_twin.hf_config().to_dict()).to_hf()
    data[part] |= changes
    with pytest.raises(BadInputError, match=sentence) as caught:
        SamConfig.from_hf(data, "some/config.json")
    assert str(caught.value).startswith("some/config.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization_config": {"bits": 4}},
        {"tie_word_embeddings": False},
        {"vision_config": 3},
    ],
)
def test_other_models_are_refused(changes):
    with pytest.raises(BadInputError, match=next(iter(changes))):
        SamConfig.from_hf(changes)
