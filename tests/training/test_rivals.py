"""The shipped rivals by training are fair: they see what the experts see."""

import pathlib

import pytest

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.models.loading import load_tokenizer
from cycleqd_jax.runs.engine_sizes import check_prompts
from cycleqd_jax.runs.tasks import make_tasks
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.training.settings import TrainConfig
from cycleqd_jax.training.sources import (
    make_source,
    task_dialogues,
    validation_dialogues,
)

CONFIGS = pathlib.Path(__file__).parents[2] / "experiments" / "configs"
SAME = ("base_model", "dtype", "save_dtype", "problems", "engine", "too_long")


def config(name, cls=TrainConfig):
    return load_config(CONFIGS / f"{name}.yaml", [], cls)


@pytest.fixture
def experts():
    return config("quickstart_experts")


@pytest.mark.parametrize(
    "name",
    [
        "quickstart_experts_rank16",
        "quickstart_mixture",
        "quickstart_finetune_merged",
        "quickstart_accepted",
    ],
)
def test_model_problems_and_batches_are_the_experts(name, experts):
    rival = config(name)
    for part in SAME:
        assert getattr(rival, part) == getattr(experts, part), part
    for part in ("batch_size", "max_length", "weight_decay", "max_grad_norm"):
        assert getattr(rival.optimiser, part) == getattr(experts.optimiser, part)
    assert rival.validation_tasks == experts.tasks
    assert rival.output.startswith("runs/")  # no committed adapter is overwritten


@pytest.mark.parametrize("name", ["quickstart_mixture", "quickstart_accepted"])
def test_one_lora_has_the_steps_and_the_rank_of_all_experts(name, experts):
    rival, number = config(name), len(experts.tasks)
    total = number * experts.optimiser.steps
    assert rival.optimiser == experts.optimiser.model_copy(update={"steps": total})
    assert rival.lora.rank == number * experts.lora.rank
    assert rival.lora.scale == experts.lora.scale
    (sources,) = rival.experts.values()
    assert len(sources) == number and len(set(sources.values())) == 1


def test_sources_are_the_tasks_and_their_accepted_replies(experts):
    (mixture,) = config("quickstart_mixture").experts.values()
    assert tuple(mixture) == experts.tasks
    (accepted,) = config("quickstart_accepted").experts.values()
    assert [pathlib.Path(path).stem for path in accepted] == list(experts.tasks)
    text = (CONFIGS / "quickstart_accepted.yaml").read_text()
    assert {str(pathlib.Path(path).parent) for path in accepted} == {
        text.partition("--to ")[2].split()[0]
    }


@pytest.mark.parametrize("name", ["quickstart_experts", "pocket_hard_experts"])
def test_every_dialogue_fits(name):
    settings = config(name)
    tokenizer = load_tokenizer(settings.base_model)
    tasks = make_tasks(settings.tasks, settings.problems, settings.task_settings)
    check_prompts(tasks, [Split.VALIDATE], tokenizer, settings.engine)
    limit = settings.optimiser.max_length
    for task in tasks:
        for found in (task_dialogues(task), validation_dialogues(task)):
            make_source(task.name, found, tokenizer, max_length=limit, drop=False)


def test_the_merged_model_is_that_of_the_quickstart(experts):
    finetune = config("quickstart_finetune_merged")
    run = config("quickstart", RunConfig)
    assert finetune.start_from == run.run_dir
    assert (finetune.base_model, finetune.dtype) == (run.base_model, run.dtype)
    (sources,) = finetune.experts.values()
    assert tuple(sources) == experts.tasks == run.tasks


def test_the_second_experts_differ_in_rank_and_seed_alone(experts):
    second = config("quickstart_experts_rank16")
    assert second.seed != experts.seed and second.lora.rank != experts.lora.rank
    assert second.lora.scale == experts.lora.scale
    changes = {"seed": experts.seed, "lora": experts.lora, "output": experts.output}
    assert second.model_copy(update=changes) == experts
