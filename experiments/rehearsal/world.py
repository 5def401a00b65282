"""A shrunken base model with random weights, its experts, and the config of their run.

The models are folders as a user has them: safetensors in shards with an index, a
config, a tokeniser. The config is that of the real run but for the models, the number
of children and problems, a rank that is a number, and the size from which the
accelerator factorises.
"""

import pathlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cycleqd_jax.config import RunConfig, to_yaml
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import write_text
from cycleqd_jax.inference.settings import MeshSettings
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.models.families import config_from_hf, read_config
from cycleqd_jax.models.formats.hf_folder import MAX_SHARD_BYTES, export_model
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.plan import find_base
from cycleqd_jax.runs.tasks import find_tasks, make_tasks
from cycleqd_jax.tasks.base import (
    ProblemsSettings,
    Split,
    Task,
    opening,
    reference,
)
from cycleqd_jax.training.new_model import learn_tokenizer
from experiments.rehearsal.scripted import SCRIPTED, STAND_INS

CONFIG = "rehearsal.yaml"  # its run folder is runs/rehearsal
_BASE = "base"
_TOKENS = 1024  # of the tokeniser; the model may have more
_LEARNT = 100  # embedded problems of each kind, for the tokeniser
_STD = 0.02  # transformers' initializer_range
_CHANGE = 0.005  # of the experts' weights
_NEW_TOKENS = 16
_SHARDS = 3


class Sizes(NamedTuple):
    """The size of a rehearsal.

    Attributes:
      shrink: divides width, depth and vocabulary; 1 leaves the model as it is.
      generations: children.
      problems: of each task.
    """

    shrink: int
    generations: int
    problems: int


def shrunken(config: ModelConfig, factor: int) -> ModelConfig:
    """A model with the same heads, of a `factor`-th of the width, depth, vocabulary.

    Raises:
      BadInputError: the factor does not divide the width of the heads and the
        feed-forward layers, or leaves heads of an odd width.
    """
    settings = config.to_hf()
    widths = {
        name: settings[name]
        for name in ("hidden_size", "intermediate_size", "head_dim")
    }
    if (
        factor < 1
        or any(w % factor for w in widths.values())
        or (settings["head_dim"] // factor % 2)
    ):
        raise BadInputError(
            f"--shrink {factor}: expected a number that divides the widths "
            f"{', '.join(f'{n} {w}' for n, w in widths.items())} and leaves heads of "
            "an even width, like 16."
        )
    if factor == 1:
        return config
    settings |= {name: width // factor for name, width in widths.items()}
    layers, tokens = settings["num_hidden_layers"], settings["vocab_size"]
    settings["num_hidden_layers"] = max(2, layers // factor)
    # A multiple of 128, so that a mesh divides it.
    settings["vocab_size"] = max(_TOKENS, -(-tokens // factor // 128) * 128)
    return config_from_hf(settings, "the shrunken model")


def write_world(
    config: RunConfig, folder: pathlib.Path, sizes: Sizes, observer: Observer
) -> pathlib.Path:
    """Writes base model, experts and config; models that are there are kept.

    Args:
      config: of the real run, with paths or hub names of models that need not be here.
      folder: gets the models and the config.
      sizes: of the rehearsal.
      observer: hears what is written, and what stands in for what.

    Returns:
      The config's file.

    Raises:
      BadInputError: the model's sizes are not known, or cannot be shrunk so, or a task
        has no scripted form.
    """
    small = shrunken(find_base(config.base_model)[0], sizes.shrink)
    entries, options = _scripted_tasks(config, sizes, observer)
    settings = config.model_dump(mode="json", exclude={"run_dir"}) | {
        "base_model": str(folder / _BASE),
        "tasks": list(entries.values()),
        "task_settings": options,
    }
    experts = [name for name, path in config.experts.items() if path != "none"]
    settings["experts"] |= {name: str(folder / name) for name in experts}
    settings["experts"] = {
        entries.get(name, name): path for name, path in settings["experts"].items()
    }
    settings["problems"]["optimise"] = sizes.problems
    settings["qd"]["num_generations"] = sizes.generations
    batch = min(config.qd.children_per_batch, max(1, sizes.generations // 3))
    settings["qd"]["children_per_batch"] = batch
    least = max(2, config.basis.host_below // sizes.shrink)
    settings["basis"]["host_below"] = least
    if config.basis.rank != "full":
        settings["basis"]["rank"] = max(1, config.basis.rank // sizes.shrink)
    rehearsed = RunConfig.model_validate(settings)
    tasks = make_tasks(rehearsed.tasks, rehearsed.problems, rehearsed.task_settings)
    _write_models(folder, small, config.dtype, experts, tasks, config.seed, observer)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CONFIG, to_yaml(rehearsed))
    return folder / CONFIG


def divided_mesh(config: RunConfig, devices: int) -> MeshSettings:
    """The mesh of a config, or all devices along `tensor` where it asks for one."""
    mesh = config.engine.mesh
    return MeshSettings(tensor=devices) if mesh == MeshSettings() else mesh


def _scripted_tasks(
    config: RunConfig, sizes: Sizes, observer: Observer
) -> tuple[dict[str, str], dict[str, Mapping[str, Any]]]:
    """Entry -> scripted entry, and the options of these."""
    entries, options = {}, {}
    for entry in config.tasks:
        if entry not in SCRIPTED:
            raise BadInputError(
                f"tasks: {entry} has no scripted form; expected some of "
                f"{', '.join(SCRIPTED)}."
            )
        own = dict(config.task_settings.get(entry, {}))
        one = config.model_copy(update={"tasks": (entry,)})
        missing = find_tasks(one)[1]
        name = entry
        if missing:
            name, own = STAND_INS[entry], {}
            observer.note(f"{name} stands in for {entry}: {missing[0]}")
        entries[entry] = SCRIPTED[name]
        options[SCRIPTED[name]] = own | {
            "first_problems": sizes.problems,
            "new_tokens": _NEW_TOKENS,
        }
    return entries, options


def _write_models(
    folder: pathlib.Path,
    config: ModelConfig,
    dtype: str,
    experts: list[str],
    tasks: Iterable[Task],
    seed: int,
    observer: Observer,
) -> None:
    """Draws each from its own seed, so that a killed command goes on."""
    tokenizer = None
    shapes = config.weight_shapes()
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    each = size * jnp.dtype(dtype).itemsize // _SHARDS
    for number, name in enumerate([_BASE, *experts]):
        if (folder / name).is_dir():
            found = read_config(folder / name)
            if found != config:
                raise BadInputError(
                    f"{folder / name}: holds a model of other sizes; give another "
                    "--folder."
                )
            continue
        tokenizer = tokenizer or _tokenizer(tasks)
        weights = _draw(config, seed, None, dtype)
        if number:
            weights = _draw(config, seed, number, dtype, weights)
        card = f"# {name}\n\nRandom weights of `python -m experiments.rehearse`.\n"
        most = min(MAX_SHARD_BYTES, each)
        export_model(
            folder / name, config, weights, tokenizer, card, max_shard_bytes=most
        )
        observer.note(f"{size:,} random weights -> {folder / name}")


def _draw(
    config: ModelConfig,
    seed: int,
    number: int | None,
    dtype: str,
    base: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Random weights, or a base's with random changes, which norms have too."""
    weights = {}
    for name, shape in config.weight_shapes().items():
        rng = np.random.default_rng([seed, number or 0, zlib.crc32(name.encode())])
        drawn = rng.standard_normal(shape, np.float32)
        if base is not None:
            value = base[name].astype(np.float32) + _CHANGE * drawn
        elif len(shape) == 1:
            value = np.full(shape, 0 if name.endswith("bias") else 1, np.float32)
        else:
            value = _STD * drawn
        weights[name] = value.astype(jnp.dtype(dtype))
    return weights


def _tokenizer(tasks: Iterable[Task]) -> ChatTokenizer:
    """Learnt from the embedded problems, and from what these tasks ask."""
    sizes = ProblemsSettings(train=_LEARNT)
    embedded = make_tasks(list(STAND_INS.values()), sizes, {})
    shown = [
        *((task, task.problems(Split.TRAIN)) for task in embedded),
        *((task, task.problems(Split.OPTIMISE)) for task in tasks),
    ]
    texts = [
        message["content"]
        for task, problems in shown
        for problem in problems
        for message in reference(task, problem) or opening(task, problem)
    ]
    learnt = learn_tokenizer(texts, _TOKENS - 1).hf
    # Templates of the published experiments print it, as that of Llama-3 does.
    learnt.add_special_tokens({"bos_token": "<|begin_of_text|>"})
    return ChatTokenizer(learnt)
