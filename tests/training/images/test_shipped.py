"""The segmentation model and experts of the repository, and the configs of them."""

import pathlib

import numpy as np
import pytest

from cycleqd_jax.config import load_config
from cycleqd_jax.models.expert_folders import open_segmentation_expert
from cycleqd_jax.models.formats.hf_folder import open_segmentation_model
from cycleqd_jax.progress import Observer
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.tasks.segmentation.families import FAMILIES
from cycleqd_jax.training.images.setup import set_up
from cycleqd_jax.training.images.table import rival_table
from cycleqd_jax.training.new_model import NewModelConfig
from cycleqd_jax.training.plan import Status
from cycleqd_jax.training.settings import ImagesConfig

ROOT = pathlib.Path(__file__).parents[3]
CONFIGS = ROOT / "experiments" / "configs"
FOLDER = ROOT / "experiments" / "experts" / "segmentation"
MARGIN = 0.25  # of a score on the own family over the base and all other experts


@pytest.fixture
def experts_config(monkeypatch):
    monkeypatch.chdir(ROOT)
    return load_config(CONFIGS / "segmentation_experts.yaml", [], ImagesConfig)


def test_the_configs_make_one_model_after_another(experts_config):
    model = load_config(CONFIGS / "segmentation_model.yaml", [], NewModelConfig)
    base = load_config(CONFIGS / "segmentation_base.yaml", [], ImagesConfig)
    assert base.base_model == model.output and base.method == "full"
    assert f"{base.output}/base" == experts_config.base_model
    assert experts_config.tasks == tuple(f"pocket_{name}" for name in FAMILIES)
    config, _ = open_segmentation_model(FOLDER / "base")
    wanted = model.model["vision_config"].items()
    own = config.to_hf()["vision_config"]
    assert all(own[key] == value for key, value in wanted)


def test_they_are_small_and_belong_together(experts_config):
    _, jobs = set_up(experts_config, Observer())
    assert [job.status for job in jobs] == [Status.COMPLETE] * 4
    config, weights = open_segmentation_model(FOLDER / "base")
    size = sum(np.prod(shape) for shape in config.weight_shapes().values())
    assert 500_000 < size < 2_500_000
    for job in jobs:
        expert = open_segmentation_expert(job.plan.folder, config, weights)
        ranks = {factor.a.shape[0] for factor in expert.factors.values()}
        assert ranks == {experts_config.lora.rank} and not expert.replacements
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10e6


@pytest.mark.slow
def test_every_expert_is_far_above_all_others_on_its_own_family(experts_config):
    table = rival_table(experts_config, Split.TEST, Observer())
    margins = {name: table.margin(name) for name in experts_config.tasks}
    assert table.images >= 128 and min(margins.values()) >= MARGIN, margins
