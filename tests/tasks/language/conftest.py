"""Tasks of lm-evaluation-harness with data of their own, and models to ask."""

import json
import pathlib
import random

import jax.numpy as jnp
import pytest
import yaml

pytest.importorskip("lm_eval", reason="the extra `language` is not installed")

from cycleqd_jax.inference.engine import Engine, EngineShape
from cycleqd_jax.models.llama import LlamaProgram
from cycleqd_jax.models.loading import load_model

WORDS = (
    "river stone lantern seven quiet orange bridge winter copper signal garden "
    "twelve paper engine shadow window market silver thunder music"
).split()


def sentence(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count))


def rows_of(rng: random.Random, count: int) -> list[dict]:
    return [
        {
            "question": f"What follows {sentence(rng, rng.randrange(2, 14))}?",
            "choices": [sentence(rng, rng.randrange(1, 5)) for _ in range(4)],
            "answer": rng.randrange(4),
            "text": f"{sentence(rng, rng.randrange(5, 90))}.\n",
        }
        for _ in range(count)
    ]


CONTEXT = "Question: {{question}}\nAnswer:"
TASKS = {
    "own_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": CONTEXT,
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "num_fewshot": 2,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "own_letters": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\n"
        "{% for c in choices %}{{'ABCD'[loop.index0]}}. {{c}}\n{% endfor %}Answer:",
        "doc_to_choice": ["A", "B", "C", "D"],
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    },
    "own_texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [
            {"metric": "word_perplexity"},
            {"metric": "byte_perplexity"},
            {"metric": "bits_per_byte"},
        ],
    },
    "own_replies": {
        "output_type": "generate_until",
        "doc_to_text": CONTEXT,
        "doc_to_target": " {{choices[answer]}}",
        "num_fewshot": 1,
        "generation_kwargs": {
            "until": ["\n", "Question:", "a"],
            "max_gen_toks": 20,
            "do_sample": False,
        },
        "metric_list": [
            {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
        ],
        "filter_list": [
            {
                "name": "first-word",
                "filter": [
                    {"function": "regex", "regex_pattern": r"(\w+)"},
                    {"function": "take_first"},
                ],
            }
        ],
    },
}
GROUP = {
    "group": "own_group",
    "task": ["own_choice", "own_letters"],
    "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
}


def write_tasks(folder: pathlib.Path, count: int = 6) -> pathlib.Path:
    """Writes task files and their data; returns the folder to include."""
    rng = random.Random(4)
    for split in ("train", "test"):
        lines = [json.dumps(row) + "\n" for row in rows_of(rng, count)]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}
    (folder / "tasks").mkdir()
    for name, own in TASKS.items():
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": files,
                "cache_dir": str(folder / "datasets"),
            },
            "training_split": "train",
            "fewshot_split": "train",
            "test_split": "test",
            "metadata": {"version": 1},
            **own,
        }
        (folder / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(task))
    (folder / "tasks" / "own_group.yaml").write_text(yaml.safe_dump(GROUP))
    return folder / "tasks"


@pytest.fixture(scope="session")
def own_tasks(tmp_path_factory) -> pathlib.Path:
    return write_tasks(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="session")
def folder(toy_settings) -> str:
    """A model folder, random and small, with SmolLM2's tokeniser."""
    return toy_settings["base_model"]


@pytest.fixture(scope="session")
def hf(folder):
    """The harness's own model."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=1)


@pytest.fixture(scope="session")
def model(folder):
    return load_model(folder)


SHAPE = EngineShape(
    slots=6,
    length=256,
    prefill_rows=4,
    prefill_chunk=16,
    decode_steps=4,
    deterministic=False,
)


@pytest.fixture(scope="session")
def engine_for(model):
    """One engine with the model's weights, whatever length is wanted."""
    engine = Engine(LlamaProgram(model.config), model.tokenizer, SHAPE)
    engine.load({name: jnp.asarray(w) for name, w in model.weights.items()})
    return lambda length: engine
