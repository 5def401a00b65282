"""The page on training: its configs are valid, its dialogue is one, its table true."""

import pathlib
import re

import pytest

from cycleqd_jax.config import load_config
from cycleqd_jax.training.settings import ImagesConfig, TrainConfig
from cycleqd_jax.training.sources import read_dialogues

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "training.md"
CONFIGURED = PAGE.parents[1] / "experiments/configs/segmentation_experts.yaml"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
SHOWN = ("one_per_task.yaml", "mixtures.yaml", "full.yaml", "finetune.yaml")
CONFIGS = {b.split("\n")[0].strip("# "): b for kind, b in BLOCKS if kind == "yaml"}


@pytest.mark.parametrize("name", SHOWN)
def test_configs_are_valid(name, tmp_path):
    (tmp_path / name).write_text(CONFIGS[name])
    config = load_config(tmp_path / name, [], TrainConfig)
    assert config.output == "experts"


def test_the_config_of_images_is_valid(tmp_path):
    (tmp_path / "images.yaml").write_text(CONFIGS["images.yaml"])
    config = load_config(tmp_path / "images.yaml", [], ImagesConfig)
    shipped = load_config(CONFIGURED, [], ImagesConfig)
    assert config.lora == shipped.lora
    assert config.optimiser == shipped.optimiser
    assert set(config.tasks) < set(shipped.tasks)


def test_the_mixture_is_what_the_text_says(tmp_path):
    (tmp_path / "m.yaml").write_text(CONFIGS["mixtures.yaml"])
    config = load_config(tmp_path / "m.yaml", [], TrainConfig)
    assert config.task_sources == ("pocket_coding", "pocket_db", "pocket_os")
    assert config.validation_tasks == ("pocket_coding", "pocket_db")


def test_the_dialogue_is_one(tmp_path):
    (line,) = [block for kind, block in BLOCKS if kind == "json"]
    (tmp_path / "chat.jsonl").write_text(line)
    (dialogue,) = read_dialogues(tmp_path / "chat.jsonl")
    assert dialogue.messages[-1] == {"role": "assistant", "content": "4"}


def test_defaults_in_the_table_are_the_settings():
    config = TrainConfig(base_model="m", tasks=["a"], output="o")
    rows = re.findall(r"^\| `([\w.]+)` \| `?([^|`]+?)`? \|", TEXT, re.MULTILINE)
    assert len(rows) >= 12
    for key, shown in rows:
        value = config
        for part in key.split("."):
            value = getattr(value, part)
        if isinstance(value, (bool, tuple)):
            assert shown == {False: "false", (): "[]"}[value]
        elif value is None:
            assert shown == "none"
        elif isinstance(value, str):
            assert shown == value
        else:
            assert float(shown) == value
