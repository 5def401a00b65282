"""Rotary scalings against `transformers`, below and above the original context."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from forward import full_logits

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import CacheView, Packed
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.llama.program import LlamaProgram

CONTEXT = 32  # original context of all scalings here
LONG = {"original_max_position_embeddings": CONTEXT}
FACTORS = {
    "short_factor": [1.0, 1.1, 1.3, 1.7],
    "long_factor": [1.0, 2.0, 5.0, 9.0],
}
SCALINGS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        **LONG,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, **LONG},
    "yarn_no_factor": {"rope_type": "yarn", "factor": None, **LONG},
    "yarn_mscale": {
        "rope_type": "yarn",
        "factor": 4.0,
        "mscale": 0.7,
        "mscale_all_dim": 0.3,
        "beta_fast": 16,
        "beta_slow": 0.5,
        "truncate": False,
        **LONG,
    },
    "yarn_attention": {
        "rope_type": "yarn",
        "factor": 4.0,
        "attention_factor": 1.7,
        **LONG,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "longrope": {"rope_type": "longrope", **FACTORS, **LONG},
    "longrope_factor": {"rope_type": "longrope", "factor": 6.0, **FACTORS, **LONG},
    "longrope_attention": {
        "rope_type": "longrope",
        "attention_factor": 1.3,
        **FACTORS,
        **LONG,
    },
    "proportional": {
        "rope_type": "proportional",
        "factor": 2.0,
        "partial_rotary_factor": 0.5,
    },
}


def pair(hf, scaling, seed=0, **changes):
    """A model of transformers and ours with the same weights."""
    kind = SCALINGS[scaling]
    settings = {
        "rope_parameters": {"rope_theta": 1000.0, **kind},
        "max_position_embeddings": CONTEXT if kind["rope_type"] == "dynamic" else 128,
    }
    model = hf.model(seed, **(settings | changes))
    program = LlamaProgram(LlamaConfig.from_hf(model.config.to_dict()))
    return model, program, {n: jnp.asarray(w) for n, w in hf.weights(model).items()}


def tokens_of(seed, batch, length):
    return np.random.default_rng(seed).integers(0, 64, (batch, length), np.int32)


def their_logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(np.asarray(tokens, np.int64))).logits.numpy()


def assert_near(got, want):
    assert np.abs(np.asarray(got) - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_logits_match_transformers_on_both_sides_of_the_context(hf, scaling):
    model, program, weights = pair(hf, scaling)
    for length in (CONTEXT, CONTEXT + 1, 3 * CONTEXT):
        tokens = tokens_of(length, 2, length)
        assert_near(full_logits(program, weights, tokens), their_logits(model, tokens))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_every_scaling_changes_the_logits(hf, scaling):
    _, program, weights = pair(hf, scaling)
    _, plain, _ = pair(hf, "default")
    tokens = tokens_of(0, 1, 3 * CONTEXT)
    difference = full_logits(program, weights, tokens) - full_logits(
        plain, weights, tokens
    )
    assert (np.abs(difference).max() > 0.1) == (scaling != "default")


@pytest.mark.parametrize("scaling", ["dynamic", "longrope"])
def test_a_row_takes_the_frequencies_of_its_own_length(hf, scaling):
    _, program, weights = pair(hf, scaling)
    tokens = tokens_of(1, 3, 60)
    lengths = jnp.array([20, 45, 60])
    together = np.asarray(full_logits(program, weights, tokens, lengths=lengths))
    for row, length in enumerate(lengths.tolist()):
        alone = tokens[row : row + 1, :length]
        want = their_logits(pair(hf, scaling)[0], alone)[0]
        assert_near(together[row, :length], want)


@pytest.mark.parametrize("scaling", ["dynamic", "longrope"])
def test_packed_sequences_take_the_frequencies_of_their_own_lengths(hf, scaling):
    _, program, weights = pair(hf, scaling)
    tokens, parts = tokens_of(2, 1, 60), [(0, 20), (20, 60)]
    packed = Packed(
        positions=jnp.array([[*range(20), *range(40)]]),
        segments=jnp.array([[0] * 20 + [1] * 40]),
    )
    hidden = program.hidden(weights, tokens, packed=packed)
    together = np.asarray(program.logits(weights, hidden))
    for start, end in parts:
        want = their_logits(pair(hf, scaling)[0], tokens[:, start:end])
        assert_near(together[:, start:end], want)


@pytest.mark.parametrize("scaling", ["dynamic", "longrope", "yarn"])
@pytest.mark.parametrize("prompt", [9, CONTEXT - 4, CONTEXT + 9])
def test_chunked_decoding_equals_generate(hf, scaling, prompt):
    """Prefill in chunks, then decode across the end of the original context."""
    model, program, weights = pair(hf, scaling, seed=3)
    tokens = tokens_of(prompt, 1, prompt)
    with torch.no_grad():
        made = model.generate(
            torch.tensor(tokens, dtype=torch.int64),
            max_new_tokens=12,
            min_new_tokens=12,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    cache, chunk, at = program.empty_cache(2, 64), 4, 0
    rows, whole = jnp.array([1]), jnp.array([prompt])
    while at < prompt:
        part = np.zeros((1, chunk), np.int32)
        real = min(chunk, prompt - at)
        part[0, :real] = tokens[0, at : at + real]
        logits, cache = program.extend(
            weights,
            part,
            jnp.array([at]),
            CacheView(cache, rows),
            last=jnp.array([real - 1]),
            lengths=whole,
        )
        at += real
    for want in made.logits:
        assert_near(logits[0], want[0].numpy())
        following = jnp.argmax(logits, axis=-1)[:, None]
        logits, cache = program.extend(
            weights, following, jnp.array([at]), CacheView(cache, rows)
        )
        at += 1


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("spelling", ["new", "old", "type"])
def test_settings_survive_a_round_trip(hf, scaling, spelling):
    config = pair(hf, scaling)[0].config
    data = config.to_dict()
    if spelling != "new":
        parameters = dict(data.pop("rope_parameters"))
        data["rope_theta"] = parameters.pop("rope_theta")
        if spelling == "type":
            parameters["type"] = parameters.pop("rope_type")
        data["rope_scaling"] = None if scaling == "default" else parameters
    ours = LlamaConfig.from_hf(data)
    assert ours == LlamaConfig.from_hf(config.to_dict())
    assert LlamaConfig.from_hf(ours.to_hf()) == ours
    again = type(config)(**{k: v for k, v in ours.to_hf().items() if k != "model_type"})
    given = {k: v for k, v in config.rope_parameters.items() if v is not None}
    assert given.items() <= again.rope_parameters.items()


@pytest.mark.parametrize(
    ("scaling", "change", "words"),
    [
        ("linear", {"factor": 0}, "factor: .*greater than 0.*: 0"),
        ("dynamic", {"factor": None}, "'dynamic' needs factor"),
        (
            "yarn",
            {"attention_factor": "x"},
            "attention_factor: .*valid number.*'x'",
        ),
        ("yarn", {"truncate": 1}, "truncate: .*valid boolean.*: 1"),
        ("yarn", {"beta_fast": -1}, "beta_fast: .*greater than 0.*-1"),
        (
            "yarn",
            {"rope_theta": 1.0},
            "rope_theta must be above 1 for yarn",
        ),
        ("longrope", {"short_factor": None}, "'longrope' needs short_factor"),
        (
            "longrope",
            {"long_factor": [1.0] * 5},
            "4 numbers .*but holds 5",
        ),
        (
            "longrope",
            {"long_factor": [1.0, 1.0, 1.0, -1]},
            r"long_factor\.3: .*greater than 0.*-1",
        ),
        (
            "longrope",
            {"original_max_position_embeddings": 1},
            "equal to 2",
        ),
        (
            "proportional",
            {"partial_rotary_factor": 0},
            "partial_rotary_factor: .*greater than 0",
        ),
        ("yarn", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ("linear", {"rope_type": "su"}, "rope_type: .*'linear', .*'su'"),
    ],
)
def test_settings_that_give_no_frequencies_are_named(hf, scaling, change, words):
    data = pair(hf, scaling)[0].config.to_dict()
    data["rope_parameters"] = data["rope_parameters"] | change
    with pytest.raises(BadInputError, match=words) as caught:
        LlamaConfig.from_hf(data, source="m/config.json")
    assert str(caught.value).startswith("m/config.json: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 1e-300},
        {"rope_scaling": {"type": "linear", "factor": 1e-300}},
        {"rope_scaling": {"type": "longrope", **FACTORS, "short_factor": [1e-300] * 4}},
        {"rope_scaling": {"type": "yarn", "factor": 1e-300}},
        {"rope_scaling": {"type": "yarn", "factor": 2, "attention_factor": 1e300}},
    ],
)
def test_frequencies_that_are_not_finite_are_refused(hf, changes):
    data = hf.model().config.to_dict() | {"rope_parameters": None} | changes
    with pytest.raises(BadInputError, match="frequencies that are not finite"):
        LlamaProgram(LlamaConfig.from_hf(data))


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_context_beyond_every_length_is_never_left(hf, kind):
    long = {"original_max_position_embeddings": 10**18}
    extra = {"factor": 2.0} if kind == "dynamic" else FACTORS | long
    data = hf.model().config.to_dict() | {"rope_parameters": None}
    data |= {"rope_scaling": {"type": kind} | extra, "max_position_embeddings": 10**18}
    program = LlamaProgram(LlamaConfig.from_hf(data))
    weights = {n: jnp.asarray(w) for n, w in hf.weights(hf.model()).items()}
    assert np.isfinite(full_logits(program, weights, tokens_of(0, 1, 40))).all()
