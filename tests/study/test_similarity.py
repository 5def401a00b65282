"""The correlation of similarity with merged scores, and what it refuses."""

import json

import numpy as np
import pytest
import toy_world
from scipy import stats

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.study.similarity import (
    Pair,
    compare_pairs,
    correlation,
    draw_pairs,
    read_pair,
)
from experiments import agent_skills, similarity


def pairs(seed, count=12, own=0.8):
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        alike = float(rng.uniform(0.8, 1.0))
        merged = float(np.clip(own * alike + rng.normal(0, 0.02), 0, 1))
        found.append(Pair(f"run-{i}", ("a", "b"), alike, merged, own))
    return found


def test_correlations_and_intervals_are_scipys():
    own = pairs(0)
    found = compare_pairs(own)
    xs = [pair.similarity for pair in own]
    for name, ys in (
        ("merged", [pair.merged for pair in own]),
        ("kept", [pair.merged / pair.experts_own for pair in own]),
    ):
        want = stats.pearsonr(xs, ys)
        interval = want.confidence_interval(0.95)
        got = found["correlation"][name]
        assert got["value"] == pytest.approx(want.statistic)
        assert got["low"] == pytest.approx(interval.low, abs=1e-9)
        assert got["high"] == pytest.approx(interval.high, abs=1e-9)
    assert draw_pairs(found).startswith(b"\x89PNG")


def test_a_constant_has_no_correlation():
    assert np.isnan(correlation([1, 1, 1, 1], [1, 2, 3, 4]).value)


def test_too_few_pairs_and_experts_without_a_skill_are_refused():
    with pytest.raises(BadInputError, match="3 runs were given; expected at least 4"):
        compare_pairs(pairs(1, count=3))
    with pytest.raises(BadInputError, match="run-0: its experts solve no test problem"):
        compare_pairs(pairs(1, own=0.0))


def test_a_run_of_two_experts_is_a_pair(toy_settings, tmp_path, capsys):
    tasks = toy_settings["tasks"][:2]
    settings = toy_settings | {
        "tasks": tasks,
        "experts": {task: toy_settings["experts"][task] for task in tasks},
        "run_dir": str(tmp_path / "pair"),
    }
    config = toy_world.write_config(tmp_path / "pair.yaml", settings)
    assert agent_skills.main(["--config", str(config)]) == 0
    pair = read_pair(tmp_path / "pair")
    report = json.loads((tmp_path / "pair" / "report" / "report.json").read_text())
    merged = report["models"][report["result"]]["test"]["mean"]
    assert pair.merged == pytest.approx(merged) and 0 < pair.similarity <= 1
    assert pair.experts == ("toy_a", "toy_b") and 0 <= pair.experts_own <= 1
    capsys.readouterr()
    assert similarity.main([str(tmp_path / "pair")]) == 2
    assert "1 runs were given; expected at least 4" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path, capsys):
    assert similarity.main([str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
