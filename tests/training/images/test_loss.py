"""The loss of masks and its gradients against dense float64."""

import copy
import functools

import jax
import numpy as np
import sam_twin
import torch

from cycleqd_jax.training import full, lora
from cycleqd_jax.training.images.loss import image_loss, mask_losses
from cycleqd_jax.training.settings import LoraSettings


def dense(logits, quality, labels):
    """The definition in the module's docstring, float64, one image."""
    x, y = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    p = 1 / (1 + np.exp(-x))
    entropy = -(y * np.log(p) + (1 - y) * np.log1p(-p)).mean()
    both, either = (p * y).sum(), (p + y - p * y).sum()
    found = x > 0
    union = (found | labels).sum()
    jaccard = (found & labels).sum() / union if union else 0.0
    return entropy + 1 - (both + 1) / (either + 1) + (quality - jaccard) ** 2, jaccard


def test_losses_equal_the_dense_definition():
    rng = np.random.default_rng(0)
    logits = np.float32(4 * rng.standard_normal((6, 9, 7)))
    labels = rng.random((6, 9, 7)) < 0.4
    labels[0], labels[1] = False, True  # empty and full masks
    logits[2] = -5  # an empty prediction
    logits[3] = np.where(labels[3], 8, -8)  # a right one
    labels[4], logits[4] = False, -5  # both empty
    quality = rng.random(6).astype(np.float32)
    losses, jaccard = mask_losses(logits, quality, labels)
    cases = zip(logits, quality, labels, strict=True)
    want = np.array([dense(*case) for case in cases])
    np.testing.assert_allclose(losses, want[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jaccard, want[:, 1], rtol=1e-6)


def torch_loss(model, batch):
    """The same by `transformers` in float64: the loss of the images that count."""
    logits, quality = [], []
    for row in range(2):
        out = model(
            pixel_values=torch.tensor(batch.pixels[row : row + 1]).double(),
            input_boxes=torch.tensor(batch.boxes[row : row + 1]).double(),
            multimask_output=False,
        )
        logits.append(out.pred_masks[:, 0])
        quality.append(out.iou_scores[0, 0, 0])
    x = torch.nn.functional.interpolate(
        torch.cat(logits), (sam_twin.SIZE,) * 2, mode="bilinear", align_corners=False
    )[:, 0]
    found, truth = x > 0, torch.tensor(batch.labels[:2])
    y, p = truth.double(), torch.sigmoid(x)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        x, y, reduction="none"
    ).mean((1, 2))
    either = (p + y - p * y).sum((1, 2))
    overlap = 1 - ((p * y).sum((1, 2)) + 1) / (either + 1)
    jaccard = (found & truth).sum((1, 2)) / (found | truth).sum((1, 2))
    error = (torch.stack(quality) - jaccard) ** 2
    return (entropy + overlap + error).mean(), jaccard.mean()


def test_loss_and_gradients_equal_torch_in_float64(twin, batch):
    """Of all weights; a row of padding counts for nothing."""
    model, program, weights = twin
    model = copy.deepcopy(model).double()
    loss, jaccard = torch_loss(model, batch)
    loss.backward()
    ours = functools.partial(image_loss, program=program, method=full.Full("float32"))
    gradient = jax.jit(
        jax.value_and_grad(ours, has_aux=True), compiler_options=sam_twin.QUICK
    )
    (value, share), grads = gradient(dict(weights), {}, batch, np.float32(2))
    np.testing.assert_allclose(value, loss.item(), rtol=1e-4)
    np.testing.assert_allclose(share, jaccard.item(), rtol=1e-5)
    theirs = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    largest = max(float(g.abs().max()) for g in theirs.values())
    fixed = {n for n, p in model.named_parameters() if not p.requires_grad}
    for name, ours in grads.items():
        if "positional_embedding" in name or name in fixed:
            continue  # a buffer of `transformers`
        want = theirs[name].numpy() if name in theirs else np.zeros(ours.shape)
        assert np.abs(ours - want).max() <= 1e-4 * largest, name


def test_gradients_reach_the_factors_and_nothing_else(twin, batch):
    """Those of layers of the single mask; other masks have layers of their own."""
    _, program, weights = twin
    settings = LoraSettings(rank=2, alpha=4.0)
    factors = lora.init_factors(program, settings, jax.random.key(0))
    factors = jax.tree.map(lambda x: x + 0.1, factors)
    ours = functools.partial(
        image_loss, program=program, method=lora.Lora(settings.scale)
    )
    gradient = jax.jit(jax.grad(ours, has_aux=True), compiler_options=sam_twin.QUICK)
    grads, _ = gradient(factors, weights, batch, np.float32(2))
    assert grads.keys() == factors.keys()
    matrices = {n for n in factors if program.config.weight_shapes()[n][1:]}
    assert matrices == factors.keys() and all(n.endswith(".weight") for n in matrices)
    tables = ("embed.weight", "iou_token.weight", "mask_tokens.weight")
    assert not any(n.endswith(tables) or "point_embed" in n for n in factors)
    others = [n for n in factors if "hypernetworks_mlps" in n and "mlps.0." not in n]
    assert len(others) == 9  # three masks of three layers
    for name, found in grads.items():
        moved = [bool(np.abs(found[side]).max() > 0) for side in "ab"]
        assert moved == [name not in others] * 2, name
