"""Random small `transformers` SAM models, and ours with the same weights."""

import jax.numpy as jnp
import numpy as np
import torch
import transformers

from cycleqd_jax.models.base import Deltas, LowRank, matrix_shape
from cycleqd_jax.models.families import make_segmentation_program
from cycleqd_jax.models.sam.config import SamConfig
from cycleqd_jax.models.segmentation import Prompts

SIZE = 64  # side of the images
# For programs that run once: compiling them is most of the time.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
SHARED_COPY = "prompt_encoder.shared_embedding.positional_embedding"


def hf_config(vision=None, prompts=None, decoder=None) -> transformers.SamConfig:
    """A config of a few thousand parameters, with changes to each part."""
    return transformers.SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIZE,
            "patch_size": 8,
            "window_size": 3,  # does not divide the grid of 8
            "global_attn_indexes": [1],
            "num_pos_feats": 8,
            "mlp_dim": 24,
        }
        | (vision or {}),
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": SIZE,
            "patch_size": 8,
            "mask_input_channels": 8,
        }
        | (prompts or {}),
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 20,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 12,
        }
        | (decoder or {}),
    )


def hf_model(config: transformers.SamConfig, seed: int = 0) -> transformers.SamModel:
    """A random model, every parameter away from its initial constant."""
    torch.manual_seed(seed)
    model = transformers.SamModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            elif "positional_embedding" in name:
                parameter.copy_(torch.randn_like(parameter))
            else:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    return model


def weights_of(model: transformers.SamModel) -> dict[str, jnp.ndarray]:
    """Our weights of a `transformers` model."""
    return {
        name: jnp.asarray(value.detach().numpy())
        for name, value in model.state_dict().items()
        if name != SHARED_COPY
    }


def twin(seed: int = 0, **parts):
    """A random model, our program and its weights."""
    config = hf_config(**parts)
    model = hf_model(config, seed)
    program = make_segmentation_program(SamConfig.from_hf(config.to_dict()))
    return model, program, weights_of(model)


def images(seed: int, rows: int = 2) -> np.ndarray:
    """Random pixels `[rows, 3, SIZE, SIZE]`."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, 3, SIZE, SIZE)).astype(np.float32)


def prompts(kind: str, seed: int = 0, rows: int = 2, side: int = 32) -> Prompts:
    """Random prompts, two per image: "points", "boxes", "both", "masks", "none"."""
    rng = np.random.default_rng(seed)
    points = boxes = labels = masks = None
    if kind in ("points", "both", "all"):
        points = rng.uniform(0, SIZE, (rows, 2, 4, 2)).astype(np.float32)
        labels = np.broadcast_to(np.array([1, 0, -1, -10], np.int32), (rows, 2, 4))
    if kind in ("boxes", "both", "all"):
        corners = np.sort(rng.uniform(0, SIZE, (rows, 2, 2, 2)), axis=2)
        boxes = corners.reshape(rows, 2, 4).astype(np.float32)
    if kind in ("masks", "all"):
        masks = rng.standard_normal((rows, side, side)).astype(np.float32)
    return Prompts(points, labels, boxes, masks)


def torch_masks(model, pixels, given: Prompts, multimask: bool):
    """Logits and qualities by `transformers`."""

    def tensor(array):
        return None if array is None else torch.tensor(np.array(array))

    with torch.no_grad():
        out = model(
            pixel_values=torch.tensor(pixels),
            input_points=tensor(given.points),
            input_labels=tensor(given.labels),
            input_boxes=tensor(given.boxes),
            input_masks=None if given.masks is None else tensor(given.masks)[:, None],
            multimask_output=multimask,
        )
    return out.pred_masks.numpy(), out.iou_scores.numpy()


def random_deltas(weights, seed: int, rows: int, rank: int = 2, cores: bool = False):
    """Additions to every parameter, another one per row."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(0.1 * rng.standard_normal(shape), jnp.float32)

    matrices, vectors = {}, {}
    for name, w in weights.items():
        if (shape := matrix_shape(w.shape)) is None:
            vectors[name] = draw(rows, *w.shape)
            continue
        c = draw(rows, rank, rank + 1) if cores else draw(rows, rank)
        v = draw(shape[1], rank + cores)
        matrices[name] = LowRank(draw(shape[0], rank), v, 30 * c)
    return Deltas(matrices, vectors)


def dense_row(weights, deltas: Deltas, row: int) -> dict[str, jnp.ndarray]:
    """The plain weights of one row."""
    dense = dict(weights)
    for name, m in deltas.matrices.items():
        c = m.c[row]
        change = (m.u @ c if c.ndim == 2 else m.u * c) @ m.v.T
        dense[name] = dense[name] + change.reshape(dense[name].shape)
    for name, change in deltas.vectors.items():
        dense[name] = dense[name] + change[row]
    return dense
