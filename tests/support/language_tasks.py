"""Tasks of lm-evaluation-harness with data of their own."""

import json
import pathlib
import random

import yaml

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
TASKS["own_code"] = TASKS["own_replies"] | {"unsafe_code": True}
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
