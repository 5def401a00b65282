"""The comparisons that ship can be read, and every method of theirs is one."""

import pathlib

import pytest

from cycleqd_jax.config import load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.study.settings import CompareConfig, open_study

CONFIGS = pathlib.Path(__file__).parents[2] / "experiments" / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("compare_*.yaml")), ids=str)
def test_every_method_of_a_shipped_comparison_is_a_run(path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parents[1])
    study = open_study(load_config(path, [], CompareConfig), path.stem)
    assert len(study.searches) >= 4 and len(study.config.seeds) >= 2
    settings = [str(method) for method in study.methods.values()]
    assert len(set(settings)) == len(settings)  # no two are the same


def test_an_expert_is_a_method_by_its_own_name(monkeypatch):
    monkeypatch.chdir(CONFIGS.parents[1])

    def opened(base, model):
        methods = {"cycleqd": {}, "one": {"model": model}}
        config = CompareConfig(base=str(base), seeds=[0], methods=methods)
        return open_study(config, "x")

    assert "one" in opened(CONFIGS / "more_experts.yaml", "expert/second_db").methods
    with pytest.raises(BadInputError, match="expert/pocket_os, expert/second_coding"):
        opened(CONFIGS / "more_experts.yaml", "expert/third_db")
    with pytest.raises(BadInputError, match="'expert/pocket_pysql' is unknown"):
        opened(CONFIGS / "composite.yaml", "expert/pocket_pysql")
