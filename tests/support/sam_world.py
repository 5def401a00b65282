"""A world of images in small: a random Segment Anything model, experts, a config."""

import pathlib

import numpy as np

from cycleqd_jax.models.base import matrix_shape
from cycleqd_jax.models.formats.hf_folder import export_segmentation_model
from cycleqd_jax.models.formats.peft import LoraFactor
from cycleqd_jax.models.formats.peft_export import save_lora
from cycleqd_jax.models.sam.config import SamConfig

SIZE = 32
TASKS = ("pocket_camouflage", "pocket_polyps", "pocket_lesions", "pocket_leaves")


def small_config() -> SamConfig:
    """A model of two layers, 32 x 32 pixels and a grid of 4 x 4."""
    sides = {"image_size": SIZE, "patch_size": 8}
    return SamConfig.from_hf(
        {
            "vision_config": sides
            | {
                "hidden_size": 16,
                "output_channels": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "window_size": 3,
                "global_attn_indexes": [1],
                "num_pos_feats": 8,
                "mlp_dim": 24,
            },
            "prompt_encoder_config": sides
            | {"hidden_size": 16, "mask_input_channels": 8},
            "mask_decoder_config": {
                "hidden_size": 16,
                "mlp_dim": 20,
                "num_attention_heads": 2,
                "iou_head_hidden_dim": 12,
            },
        }
    )


def random_weights(config: SamConfig, rng: np.random.Generator) -> dict:
    """Float32 weights by name; norm scales near 1."""
    weights = {}
    for name, shape in config.weight_shapes().items():
        draw = 0.3 * rng.standard_normal(shape).astype(np.float32)
        is_scale = "norm" in name and name.endswith("weight")
        weights[name] = 1 + draw if is_scale else draw
    return weights


def random_lora(config: SamConfig, rng: np.random.Generator) -> dict:
    """Factors of rank 2 of the linear layers."""
    return {
        name: LoraFactor(
            0.3 * rng.standard_normal((shape[0], 2)).astype(np.float32),
            0.3 * rng.standard_normal((2, shape[1])).astype(np.float32),
            1.0,
        )
        for name, shape in config.weight_shapes().items()
        if len(shape) == 2 and any(p in name for p in ("proj", "qkv", "lin"))
    }


def make_world(
    folder: pathlib.Path, tasks: tuple = TASKS[:2], full: tuple = ()
) -> dict:
    """Writes model and experts into `folder`; returns the settings of a run.

    Args:
      folder: is there.
      tasks: 2 to 4, each with its expert.
      full: tasks whose expert is a full fine-tune that moves every parameter.
    """
    rng, config = np.random.default_rng(2), small_config()  # masks are not constant
    base = random_weights(config, rng)
    export_segmentation_model(folder / "base", config, base, "# A random model\n")
    for task in tasks:
        if task in full:
            moved = {
                name: w + 0.1 * rng.standard_normal(w.shape).astype(np.float32)
                for name, w in base.items()
            }
            export_segmentation_model(folder / task, config, moved, "# An expert\n")
            continue
        save_lora(
            folder / task,
            random_lora(config, rng),
            base_name="base",
            card="Random.\n",
            segmentation=True,
        )
    return {
        "seed": 3,
        "base_model": str(folder / "base"),
        "tasks": list(tasks),
        "experts": {task: str(folder / task) for task in tasks},
        "task_settings": {task: {"size": SIZE} for task in tasks},
        "problems": {"optimise": 5, "validate": 4, "test": 4, "train": 6},
        "basis": {"keep": False},  # nothing goes into the user's cache
        "qd": {"num_generations": 4, "children_per_batch": 2, "bins": 5},
        "aggregation": {"candidates": 2},
        "baselines": {"scaled_merge_factors": [0.5, 1.0]},
        "images": {"per_call": 4, "mode": "factored"},
    }


def changed_matrices(config: SamConfig) -> list[str]:
    """Names of all weights with singular directions."""
    shapes = config.weight_shapes().items()
    return [name for name, shape in shapes if matrix_shape(shape)]
