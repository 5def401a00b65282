"""Suite `segmentation`: masks of many individuals, in one call or one after another."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.evaluation.mask_programs import plain_masks, population_masks
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.forms import DiagonalBasis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.models.experts import LoraExpert
from cycleqd_jax.models.families import (
    any_config_from_hf,
    make_segmentation_program,
)
from cycleqd_jax.models.formats.peft import LoraFactor
from cycleqd_jax.models.loading import load_any_model
from cycleqd_jax.models.segmentation import NO_PROMPT, SegmentationModel
from experiments.benchmarks import frame

_INDIVIDUALS, _IMAGES, _RANK = 8, 16, 8
# As large as the model of the quickstart.
_SIDES = {"image_size": 64, "patch_size": 8}
_SMALL = {
    "model_type": "sam",
    "vision_config": _SIDES
    | {
        "hidden_size": 128,
        "output_channels": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "window_size": 4,
        "global_attn_indexes": [2, 5],
        "num_pos_feats": 32,
        "mlp_dim": 256,
    },
    "prompt_encoder_config": _SIDES | {"hidden_size": 64},
    "mask_decoder_config": {
        "hidden_size": 64,
        "mlp_dim": 128,
        "num_attention_heads": 4,
        "iou_head_hidden_dim": 64,
    },
}


def run(options: frame.Options, say: frame.Say) -> list[frame.Row]:
    """Measures the suite; `--model` is the folder of a segmentation model.

    By default it is a random one of the quickstart's size.
    """
    program, weights, basis = _world(options)
    rng = np.random.default_rng(1)
    genomes = [_genome(basis, rng) for _ in range(_INDIVIDUALS)]
    size = program.config.image_size
    pixels = rng.standard_normal((_IMAGES, 3, size, size)).astype(np.float32)
    on_device = jnp.asarray(pixels)
    own = tuple(
        jnp.stack([getattr(genome, name) for genome in genomes])
        for name in ("coefficients", "scales")
    )
    shared = (weights, basis.u, basis.v, basis.deltas)

    def together() -> object:
        return population_masks(
            program, basis.layout, shared, own, on_device, NO_PROMPT
        )

    child = None

    def one_by_one() -> object:
        nonlocal child
        found = []
        for genome in genomes:
            # As the evaluator does: into the memory of the individual before.
            child = materialise(weights, basis, genome, into=child)
            found.append(plain_masks(program, child, on_device, NO_PROMPT))
        return found

    sides = {"together": together, "one by one": one_by_one}
    if (theirs := _transformers(program, weights)) is not None:
        sides["transformers"] = functools.partial(theirs, pixels)
    say("by turns: " + ", ".join(sides))
    took = frame.medians(frame.measure(sides, options.repeats))
    images = _INDIVIDUALS * _IMAGES
    rates = {name: images / seconds for name, seconds in took.items()}
    parameters = sum(array.size for array in weights.values())
    where = (
        f"{parameters / 1e6:.1f}M parameters, {size} x {size} pixels; {_INDIVIDUALS} "
        f"individuals of {basis.num_experts} experts of rank {_RANK}, {_IMAGES} images"
    )
    notes = {
        "one by one": f"one model after another, made on the device; {where}",
        "transformers": "SamModel on the CPU, the same weights every time",
    }
    return [
        frame.compare(
            "masks of a batch of individuals in one call",
            rates["together"],
            rates[other],
            "images/s",
            more_is_better=True,
            note=notes[other],
        )
        for other in notes
        if other in rates
    ]


def _world(
    options: frame.Options,
) -> tuple[SegmentationModel, dict[str, jax.Array], DiagonalBasis]:
    """The model with its weights on the device, and a basis of two random experts."""
    rng = np.random.default_rng(0)
    if options.model == frame.DEFAULT_MODEL:
        config = any_config_from_hf(_SMALL)
        host = {
            name: 0.1 * rng.standard_normal(shape, np.float32)
            for name, shape in config.weight_shapes().items()
        }
    else:
        model = load_any_model(os.path.expanduser(options.model))
        config, host = model.config, dict(model.weights)
    linear = {
        name: shape
        for name, shape in config.weight_shapes().items()
        if len(shape) == 2 and any(part in name for part in ("proj", "qkv", "lin"))
    }
    experts = [
        LoraExpert(
            {
                name: LoraFactor(
                    0.1 * rng.standard_normal((shape[0], _RANK), np.float32),
                    0.1 * rng.standard_normal((_RANK, shape[1]), np.float32),
                    1.0,
                )
                for name, shape in linear.items()
            }
        )
        for _ in range(2)
    ]
    weights = {name: jnp.asarray(array) for name, array in host.items()}
    return make_segmentation_program(config), weights, compute_basis(host, experts)


def _genome(basis: DiagonalBasis, rng: np.random.Generator) -> Genome:
    shares = rng.uniform(0, 1, basis.genome_size)
    return Genome(
        jnp.asarray(shares * np.asarray(basis.singular_values), jnp.float32),
        jnp.asarray(rng.uniform(0, 1, basis.num_experts), jnp.float32),
    )


def _transformers(program: SegmentationModel, weights):
    """Masks of as many models by `transformers`; None without PyTorch."""
    try:
        import torch
        import transformers
    except ImportError:
        return None
    torch.set_num_threads(frame.cores())
    settings = program.config.to_hf()
    model = transformers.SamModel(transformers.SamConfig.from_dict(settings)).eval()
    state = {name: torch.tensor(np.asarray(array)) for name, array in weights.items()}
    model.load_state_dict(state, strict=False)

    def masks(pixels: np.ndarray) -> None:
        with torch.no_grad():
            for _ in range(_INDIVIDUALS):
                model(pixel_values=torch.tensor(pixels), multimask_output=False)

    return masks
