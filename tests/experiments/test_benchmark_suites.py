"""The suites on a toy model: which rows there are, not what was measured."""

import math

import numpy as np
import pytest
import sam_world
import toy_world

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.runs.known_models import KnownModel, known_model
from experiments.benchmarks import (
    archives,
    frame,
    loading,
    loop,
    operators,
    population,
    quickstart,
    scale,
    segmentation,
)


@pytest.fixture(scope="module")
def options(toy_settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "toy.yaml"
    return frame.Options(str(toy_world.write_config(path, toy_settings)))


def test_operators(options):
    rows = operators.run(options, lambda text: None)
    assert [(row.name, row.unit, row.target) for row in rows] == [
        ("propose a child, factored", "s", 1000.0),
        ("propose a child, factored", "s", None),
        ("propose a child, factored, in batches", "s", None),
        ("propose a child, materialised", "s", 50.0),
        ("propose a child, materialised", "s", None),
        ("archives: memory", "MB", 1.0),
        ("archives: save", "s", 1.0),
        ("archives: restore", "s", 1.0),
    ]
    assert all(row.ours > 0 and row.ratio > 0 for row in rows)
    assert rows[5].note.startswith("75 elites")  # 3 archives of 5 x 5 cells
    assert rows[5].is_reached


def test_loading(monkeypatch):
    """A model of a few megabytes: the files are read, little is held."""
    config, _ = toy_world.random_model(64, np.random.default_rng(0))
    known = KnownModel("toy", config)
    monkeypatch.setattr(loading, "known_model", lambda name: known)
    monkeypatch.setattr(loading, "_SHARD", 4000)
    rows = loading.run(frame.Options("toy"), lambda text: None)
    assert [row.unit for row in rows] == ["GB", "GB"]
    assert rows[0].ours <= rows[1].ours and "GB of files" in rows[1].note


@pytest.mark.slow
def test_segmentation(tmp_path):
    sam_world.make_world(tmp_path)
    rows = segmentation.run(frame.Options(str(tmp_path / "base")), lambda text: None)
    assert [row.unit for row in rows] == ["images/s"] * 2
    assert all(row.ours > 0 and row.ratio > 0 for row in rows)
    assert "transformers" not in rows[0].note and "SamModel" in rows[1].note


@pytest.mark.slow
def test_scale(monkeypatch):
    """The rows that need an accelerator, on a model of a few thousand numbers."""
    config, _ = toy_world.random_model(64, np.random.default_rng(0))
    known = KnownModel("toy", config)
    monkeypatch.setattr(frame, "known_model", lambda name: known)
    monkeypatch.setattr(scale, "is_accelerator", lambda target: True)
    monkeypatch.setattr(scale, "_LENGTH", 32)
    monkeypatch.setattr(scale, "_DECODES", ((1, 8), (3, 8)))
    rows = scale.run(frame.Options("toy"), lambda text: None)
    by_name = {row.name: row for row in rows}
    assert all(row.ours > 0 for row in rows)
    for text in ("16 x 16", "8 x 16", "24 x 16", "16 x 24"):
        assert by_name[f"factorise {text} to rank {min(map(int, text.split(' x ')))}"]
    decodes = [row for row in rows if row.name.startswith("decode")]
    assert [row.target for row in decodes] == [0.7, 0.7]
    # Weights and cache in bfloat16, and of three individuals the directions.
    one, three = (row.other for row in decodes)
    weights = sum(math.prod(s) for s in config.weight_shapes().values())
    cache = 2 * 8 * 32 * config.num_hidden_layers * 8
    bandwidth = 1e9 * by_name["memory bandwidth"].ours
    assert one * bandwidth == pytest.approx(2 * (weights + cache))
    assert three > 2 * one


def test_archives(monkeypatch):
    config, _ = toy_world.random_model(64, np.random.default_rng(0))
    known = KnownModel("toy", config)
    monkeypatch.setattr(frame, "known_model", lambda name: known)
    monkeypatch.setattr(archives, "_BINS", 4)
    rows = archives.run(frame.Options("toy"), lambda text: None)
    names = ["memory", "save", "restore"]
    assert [row.name for row in rows[1:]] == [f"archives: {name}" for name in names]
    assert all(row.note.startswith("48 elites") for row in rows[1:])
    assert all("of processor time" in row.note for row in rows[2:])


def test_scale_runs_no_large_model_on_a_cpu(monkeypatch):
    target = scale.find_target("local")
    config = known_model("llama-3-8b").config
    row = scale._decode(frame.Options(), config, target, 8, 64)
    assert row.ours is None and row.note == "not run yet"


def test_full_archives_hold_their_elites(options):
    config = quickstart.run_config(options)
    prepared = quickstart.prepared_run(config, lambda text: None)
    state = quickstart.full_state(prepared, config.qd.bins)
    full, bank = state.memory.archives, state.bank
    assert len(full.kept_ids()) == 75 and bank.next_id == 78
    for individual in (3, 40, 77):  # all cells are theirs already
        scores = bank.scores[individual].tolist()
        offered, _ = full.offer(individual, scores)
        task = (individual - 3) // 25
        assert offered.ids(task).tolist() == full.ids(task).tolist()


@pytest.mark.slow
def test_population(options, monkeypatch):
    monkeypatch.setattr(population, "_PROMPT", 16)
    monkeypatch.setattr(population, "_NEW", 8)
    rows = population.run(options, lambda text: None)
    assert [row.target for row in rows] == [1.8, None, 0.95, 0.95, 0.95, 1.0]
    assert "of all tokens equal" in rows[0].note
    assert rows[-1].unit == "B" and rows[-1].is_reached
    assert all(math.isfinite(row.ours) and row.ours > 0 for row in rows)


@pytest.mark.parametrize(
    "model", ["random", pytest.param("of a config", marks=pytest.mark.slow)]
)
def test_serve(options, monkeypatch, model):
    serve = pytest.importorskip("experiments.benchmarks.serve")
    monkeypatch.setattr(serve, "_PROMPT", 8)
    monkeypatch.setattr(serve, "_NEW", 6)
    small = {name: min(size, 32) for name, size in serve._SIZES.items()}
    small |= {"vocab_size": 64, "num_hidden_layers": 1}
    monkeypatch.setattr(serve, "_SIZES", small)
    if model == serve.MODEL:
        options = frame.Options(model)
    [row] = serve.run(options, lambda text: None)
    assert (row.unit, row.target) == ("tokens/s", 2.0)
    assert row.ours > 0 and row.ratio == pytest.approx(row.ours / row.other)
    assert "million weights" in row.note


def test_loop(options):
    rows = loop.run(options, lambda text: None)
    share, ours, model, sandbox, whole = rows
    assert (share.other, share.target) == (0.05, 1.0)
    assert share.ours + model.ours + sandbox.ours == pytest.approx(1, abs=0.2)
    assert 0 < model.ours < 1 and 0 <= sandbox.ours < 1
    assert 0 < ours.ours < whole.ours


def test_a_model_without_experts_is_refused():
    options = frame.Options("llama-3-8b", random_weights=True)
    with pytest.raises(BadInputError, match="needs experts, and llama-3-8b has"):
        quickstart.run_config(options)
