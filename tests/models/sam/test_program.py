"""SAM against `transformers`, and its forms against one another."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sam_twin
import torch
import transformers

from cycleqd_jax.models.base import Deltas
from cycleqd_jax.models.sam import image_encoder
from cycleqd_jax.models.sam.config import SamConfig
from cycleqd_jax.models.sam.layers import Parameters
from cycleqd_jax.models.segmentation import NO_PROMPT, Prompts

# Each takes seconds to compile, and others have the same parts: "all" is all prompts.
SLOW = functools.partial(pytest.param, marks=pytest.mark.slow)
VARIANTS = {
    "plain": {},
    "no_windows": {"vision": {"window_size": 0}},
    "windows_only": {"vision": {"global_attn_indexes": [], "window_size": 4}},
    "wide_windows": {"vision": {"window_size": 14}},  # wider than the image
    "no_qkv_bias": {"vision": {"qkv_bias": False}},
    "no_rel_pos": {"vision": {"use_rel_pos": False}},
    "no_abs_pos": {"vision": {"use_abs_pos": False}},
    "activations": {
        "vision": {"hidden_act": "relu"},
        "prompts": {"hidden_act": "relu"},
        "decoder": {"hidden_act": "gelu"},
    },
    "decoder": {
        "decoder": {
            "num_hidden_layers": 3,
            "attention_downsample_rate": 4,
            "num_multimask_outputs": 2,
            "iou_head_depth": 4,
            "layer_norm_eps": 1e-3,
        },
        "vision": {"layer_norm_eps": 1e-3, "num_channels": 3},
        "prompts": {"layer_norm_eps": 1e-3, "num_point_embeddings": 5},
    },
}


def close(got, want):
    want = np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(np.asarray(got) - want).max() <= 1e-4 * np.abs(want).max()


@functools.partial(jax.jit, static_argnums=0, compiler_options=sam_twin.QUICK)
def embed(program, weights, pixels, deltas):
    return program.embed_images(weights, pixels, deltas)


@functools.partial(
    jax.jit,
    static_argnums=0,
    static_argnames="multimask",
    compiler_options=sam_twin.QUICK,
)
def predict(program, weights, image, given, deltas, *, multimask):
    return program.predict_masks(weights, image, given, deltas, multimask=multimask)


def run(program, weights, pixels, given=NO_PROMPT, deltas=None, multimask=False):
    """Embeddings, logits and qualities; equal programs are compiled once."""
    image = embed(program, weights, pixels, deltas)
    return image, *predict(program, weights, image, given, deltas, multimask=multimask)


def decoding(program, weights, options):
    """A program with the same decoder and the same weights of it, or the one given.

    The decoder does not see what the image encoder is, so that variants of the encoder
    share one compiled decoder.
    """
    if options.keys() - {"vision"}:
        return program, weights
    _, plain, own = sam_twin.twin()
    ours = {n: w for n, w in weights.items() if not n.startswith("vision_encoder")}
    return plain, own | ours


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_option_matches_transformers(variant):
    options = VARIANTS[variant]
    model, program, weights = sam_twin.twin(**options)
    pixels, given = sam_twin.images(1), sam_twin.prompts("all", 2)
    image = embed(program, weights, pixels, None)
    program, weights = decoding(program, weights, options)
    logits, quality = predict(program, weights, image, given, None, multimask=True)
    with torch.no_grad():
        close(image, model.get_image_embeddings(torch.tensor(pixels)))
    want = sam_twin.torch_masks(model, pixels, given, True)
    close(logits, want[0])
    close(quality, want[1])


@functools.partial(jax.jit, static_argnums=0, compiler_options=sam_twin.QUICK)
def predict_both(program, weights, image, given):
    """The single mask, then several: one program compiles in the time of one of two."""
    return [
        program.predict_masks(weights, image, given, multimask=multimask)
        for multimask in (False, True)
    ]


@pytest.mark.parametrize(
    "kind", ["points", "boxes", SLOW("both"), SLOW("masks"), "all", "none"]
)
def test_every_prompt_matches_transformers(kind):
    model, program, weights = sam_twin.twin(seed=3)
    pixels, given = sam_twin.images(4), sam_twin.prompts(kind, 5)
    image = embed(program, weights, pixels, None)
    for multimask, got in enumerate(predict_both(program, weights, image, given)):
        want = sam_twin.torch_masks(model, pixels, given, bool(multimask))
        assert want[0].shape[2] == (3 if multimask else 1)
        for ours, theirs in zip(got, want, strict=True):
            close(ours, theirs)


def test_points_without_labels_are_inside():
    model, program, weights = sam_twin.twin(seed=3)
    pixels = sam_twin.images(4)
    given = sam_twin.prompts("points", 5)._replace(labels=None)
    _, logits, _ = run(program, weights, pixels, given)
    close(logits, sam_twin.torch_masks(model, pixels, given, False)[0])


@pytest.mark.parametrize("window", [SLOW(0), 14])
def test_one_layer_of_vit_h_matches_transformers(window):
    settings = {"hidden_size": 1280, "num_attention_heads": 16, "mlp_dim": 5120}
    hf = transformers.SamConfig(
        vision_config=settings
        | {"num_hidden_layers": 1, "image_size": 256, "window_size": window}
        | {"global_attn_indexes": []},
        prompt_encoder_config={"image_size": 256},
    ).vision_config
    torch.manual_seed(0)
    theirs = transformers.models.sam.modeling_sam.SamVisionSdpaAttention
    layer = transformers.models.sam.modeling_sam.SamVisionLayer
    hf._attn_implementation = "sdpa"
    layer = layer(hf, window).eval()
    assert isinstance(layer.attn, theirs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    x = np.random.default_rng(1).standard_normal((1, 16, 16, 1280), np.float32)
    with torch.no_grad():
        want = layer(torch.tensor(x)).numpy()
    ours = SamConfig.from_hf(
        {
            "vision_config": hf.to_dict() | {"output_channels": 256},
            "prompt_encoder_config": {"image_size": 256},
        }
    ).vision_config
    weights = {
        f"vision_encoder.layers.0.{name}": jnp.asarray(p.detach().numpy())
        for name, p in layer.named_parameters()
    }
    parameters = Parameters(weights, Deltas())
    close(image_encoder.layer(parameters, ours, 0, jnp.asarray(x)), want)


@pytest.mark.parametrize("rel_pos", [True, SLOW(False)])
def test_attention_row_by_row_is_the_same(monkeypatch, rel_pos):
    _, program, weights = sam_twin.twin(seed=6, vision={"use_rel_pos": rel_pos})
    deltas = sam_twin.random_deltas(weights, 7, rows=2)
    pixels = sam_twin.images(8)
    want = embed(program, weights, pixels, deltas)
    monkeypatch.setattr(image_encoder, "MOST_TOKENS", 8)
    again = jax.jit(program.embed_images, compiler_options=sam_twin.QUICK)
    close(again(weights, pixels, deltas), want)


@pytest.mark.parametrize("cores", [SLOW(False), True])
def test_factored_equals_materialised(cores):
    _, program, weights = sam_twin.twin(seed=9)
    deltas = sam_twin.random_deltas(weights, 10, rows=2, cores=cores)
    pixels, given = sam_twin.images(11), sam_twin.prompts("all", 12)
    got = run(program, weights, pixels, given, deltas, multimask=True)
    for row in range(2):
        own = Prompts(*(array[row : row + 1] for array in given))
        base = run(program, weights, pixels[row : row + 1], own, multimask=True)
        changed = np.abs(got[1][row : row + 1] - base[1]).max()
        assert changed > 0.1 * np.abs(base[1]).max()
        dense = sam_twin.dense_row(weights, deltas, row)
        want = run(program, dense, pixels[row : row + 1], own, multimask=True)
        for ours, plain in zip(got, want, strict=True):
            close(ours[row : row + 1], plain)


def test_individuals_share_one_pass_by_vmap():
    """One row of coefficients for all images, mapped over three individuals."""
    _, program, weights = sam_twin.twin(seed=13)
    deltas = sam_twin.random_deltas(weights, 14, rows=3)
    pixels, given = sam_twin.images(15), sam_twin.prompts("both", 16)
    single = Deltas(
        {n: m.replace(c=m.c[:, None]) for n, m in deltas.matrices.items()},
        {n: d[:, None] for n, d in deltas.vectors.items()},
    )
    axes = Deltas(
        {n: m.replace(u=None, v=None, c=0) for n, m in deltas.matrices.items()},
        dict.fromkeys(deltas.vectors, 0),
    )

    @functools.partial(jax.jit, compiler_options=sam_twin.QUICK)
    def population(deltas):
        def one(own):
            image = program.embed_images(weights, pixels, own)
            return program.predict_masks(weights, image, given, own)[0]

        return jax.vmap(one, in_axes=(axes,))(deltas)

    got = population(single)
    for i in range(3):
        dense = sam_twin.dense_row(weights, deltas, i)
        close(got[i], run(program, dense, pixels, given)[1])


def test_bfloat16_stays_near_float32():
    _, program, weights = sam_twin.twin(seed=17)
    half = type(program)(program.config, "bfloat16")
    cast = {name: w.astype("bfloat16") for name, w in weights.items()}
    pixels, given = sam_twin.images(18), sam_twin.prompts("all", 19)
    rounded = {name: w.astype("float32") for name, w in cast.items()}
    want = run(program, rounded, pixels, given)
    got = run(half, cast, pixels, given)
    assert got[0].dtype == jnp.bfloat16 and got[1].dtype == jnp.float32
    for ours, exact in zip(got, want, strict=True):
        error = np.abs(np.asarray(ours, np.float32) - exact).mean()
        assert error < 0.1 * np.abs(exact).mean()


def test_equal_programs_are_one_static_argument():
    _, program, _ = sam_twin.twin()
    assert type(program)(program.config) == program
    assert hash(type(program)(program.config)) == hash(program)
    assert type(program)(program.config, "bfloat16") != program


def test_missing_weights_and_wrong_sizes_are_named():
    _, program, weights = sam_twin.twin()
    with pytest.raises(ValueError, match=r"pixels: expected shape \[B, 3, 64, 64\]"):
        program.embed_images(weights, jnp.zeros((1, 3, 32, 64)))
    less = {name: w for name, w in weights.items() if "iou_token" not in name}
    with pytest.raises(ValueError, match="iou_token"):
        program.embed_images(less, jnp.zeros((1, 3, 64, 64)))
