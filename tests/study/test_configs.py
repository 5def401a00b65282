"""The comparisons that ship can be read, and every method of theirs is one."""

import pathlib

import pytest

from cycleqd_jax.config import load_config
from cycleqd_jax.study.settings import CompareConfig, open_study

CONFIGS = pathlib.Path(__file__).parents[2] / "experiments" / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("compare_*.yaml")), ids=str)
def test_every_method_of_a_shipped_comparison_is_a_run(path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parents[1])
    study = open_study(load_config(path, [], CompareConfig), path.stem)
    assert len(study.searches) >= 4 and len(study.config.seeds) >= 2
    settings = [str(method) for method in study.methods.values()]
    assert len(set(settings)) == len(settings)  # no two are the same
