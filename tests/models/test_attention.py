"""All implementations of attention against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forward import full_logits

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models import attention
from cycleqd_jax.models.base import CacheView
from cycleqd_jax.models.llama.program import LlamaProgram


def reference(queries, keys, values, positions, segments=None):
    q, k, v = (np.asarray(a, np.float64) for a in (queries, keys, values))
    batch, length, heads, head_dim = q.shape
    group = heads // k.shape[1]
    out = np.zeros(q.shape)
    for b, i, h in np.ndindex(batch, length, heads):
        seen = np.arange(k.shape[2]) <= positions[b, i]
        if segments is not None:
            seen &= segments[b] == segments[b, i]
        scores = k[b, h // group, seen] @ q[b, i, h] / np.sqrt(head_dim)
        shares = np.exp(scores - scores.max())
        out[b, i, h] = shares @ v[b, h // group, seen] / shares.sum()
    return out.reshape(batch, length, -1)


def inputs(batch, length, heads, kv_heads, span, head_dim, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    first = rng.integers(0, span - length + 1, batch)
    first[0], first[-1] = 0, span - length  # the shortest and the longest
    return (
        draw(batch, length, heads, head_dim),
        draw(batch, kv_heads, span, head_dim),
        draw(batch, kv_heads, span, head_dim),
        np.asarray(first[:, None] + np.arange(length), np.int32),
    )


@pytest.mark.parametrize("kind", ["xla", "dot_product"])
@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_queries_attend_to_earlier_keys_only(kind, length, kv_heads):
    given = inputs(3, length, 6, kv_heads, 24, 8)
    got = attention.attend(*given, kind=kind)
    np.testing.assert_allclose(got, reference(*given), atol=2e-6)


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_tokens_held_back_count_like_cached_ones(step, kv_heads):
    """Rows of 0 to 24 cached tokens, then 1 or 4 that are held back, and garbage."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    cached = [draw(3, kv_heads, 24, 8) for _ in range(2)]
    held = [draw(3, kv_heads, 5, 8) for _ in range(2)]
    filled, queries = np.array([0, 11, 24], np.int32), draw(3, 1, 6, 8)
    got = attention.attend_twice(
        queries, cached, held, jnp.asarray(filled), jnp.int32(step)
    )
    for row, count in enumerate(filled):
        keys, values = (
            np.concatenate([a[row, :, :count], b[row, :, : step + 1]], axis=1)[None]
            for a, b in zip(cached, held, strict=True)
        )
        last = np.array([[keys.shape[2] - 1]])
        want = reference(queries[row : row + 1], keys, values, last)[0]
        np.testing.assert_allclose(got[row], want, atol=2e-6)


def test_long_rows_are_computed_one_by_one(monkeypatch):
    """As they are where the scores of all rows together are large."""
    given = inputs(3, 5, 6, 2, 24, 8)
    segments = np.repeat([[0, 0, 0, 1, 1]], 3, axis=0)
    own = inputs(3, 5, 6, 2, 5, 8)
    monkeypatch.setattr(attention, "_CACHED_BYTES", 100)
    got = attention.attend(*given)
    mine = attention.attend(*own, segments)
    np.testing.assert_allclose(got, reference(*given), atol=2e-6)
    np.testing.assert_allclose(mine, reference(*own, segments), atol=2e-6)


@pytest.mark.parametrize("kind", ["xla", "dot_product", "pallas"])
def test_segments_do_not_see_each_other(kind):
    q, k, v, _ = inputs(2, 12, 4, 2, 12, 8)
    positions = np.tile(np.arange(12, dtype=np.int32), (2, 1))
    segments = np.array([[0] * 5 + [1] * 7, [0] * 12], np.int32)
    got = attention.attend(q, k, v, positions, segments, kind=kind)
    want = reference(q, k, v, positions, segments)
    np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("span", [48, 256])
@pytest.mark.parametrize("heads", [(4, 2), (9, 3)])
def test_the_gpu_kernel_interpreted(span, heads):
    q, k, v, positions = inputs(3, 1, *heads, span, 64)
    lengths = jnp.asarray(positions[:, 0] + 1)
    got = attention._decode(q[:, 0], k, v, lengths, interpret=True)
    want = reference(q, k, v, positions)[:, 0]
    np.testing.assert_allclose(got, want, atol=5e-6)


@pytest.mark.parametrize("heads", [(4, 2), (16, 2)])
def test_the_tpu_kernel_interpreted(heads):
    from jax.experimental.pallas import tpu as pltpu

    q, k, v, positions = inputs(3, 1, *heads, 256, 128)
    lengths = jnp.asarray(positions[:, 0] + 1)
    with pltpu.force_tpu_interpret_mode():
        got = jax.jit(attention._paged)(q[:, 0], k, v, lengths)
    want = reference(q, k, v, positions)[:, 0]
    # It multiplies in bfloat16.
    np.testing.assert_allclose(got, want, atol=0.03)


def test_a_program_gives_the_same_logits_with_another_kind(tiny_config):
    programs = [LlamaProgram(tiny_config, attention=k) for k in ("xla", "dot_product")]
    keys = iter(jax.random.split(jax.random.key(0), 99))
    weights = {
        name: 0.3 * jax.random.normal(next(keys), shape)
        for name, shape in programs[0].config.weight_shapes().items()
    }
    tokens = np.random.default_rng(0).integers(0, 160, (2, 7), np.int32)
    got = []
    for program in programs:
        cache = program.empty_cache(2, 16)
        offsets = jnp.zeros(2, jnp.int32)
        chunk, cache = program.extend(weights, tokens, offsets, CacheView(cache))
        step, _ = program.extend(weights, tokens[:, :1], offsets + 7, CacheView(cache))
        got.append(
            np.stack([chunk, step, full_logits(program, weights, tokens)[:, -1]])
        )
    np.testing.assert_allclose(got[0], got[1], atol=1e-4)


def choose(setting, platform, monkeypatch, **changes):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    settings = {"head_dim": 64, "dtype": "bfloat16"} | changes
    return attention.choose_attention(setting, **settings)


def test_the_choice_by_platform(monkeypatch):
    assert choose("auto", "cpu", monkeypatch) == "xla"
    assert choose("auto", "gpu", monkeypatch) == "dot_product"
    assert choose("auto", "tpu", monkeypatch) == "dot_product"
    assert choose("dot_product", "cpu", monkeypatch) == "dot_product"
    assert choose("cudnn", "gpu", monkeypatch) == "cudnn"
    assert choose("pallas", "tpu", monkeypatch, head_dim=128) == "pallas"


@pytest.mark.parametrize(
    ("setting", "platform", "changes", "said"),
    [
        ("cudnn", "cpu", {}, "a GPU, but this platform is cpu"),
        ("cudnn", "gpu", {"dtype": "float32"}, "16-bit"),
        ("pallas", "cpu", {}, "GPU or TPU"),
        ("pallas", "tpu", {}, "128 on a TPU, but they have 64"),
        ("pallas", "gpu", {"devices": 2}, "one device, but the mesh has 2"),
    ],
)
def test_kinds_that_cannot_run_here_are_refused(
    setting, platform, changes, said, monkeypatch
):
    with pytest.raises(BadInputError, match=said):
        choose(setting, platform, monkeypatch, **changes)
