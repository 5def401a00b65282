"""A small model from nothing: random weights, and a tokeniser learnt from dialogues.

`method: full` then trains it (see `training.run`). All texts are those of the right
dialogues of tasks' `train` problems. A segmentation model has no tokeniser.
"""

import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

import jax
import numpy as np
import pydantic
from pydantic import Field

from cycleqd_jax.errors import BadInputError, show
from cycleqd_jax.files import EachOnce, PathText, Section, Seed, TaskName, Text
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.models.experts import weights_fingerprint
from cycleqd_jax.models.families import (
    SEGMENTATION_FAMILIES,
    config_from_hf,
    segmentation_config_from_hf,
)
from cycleqd_jax.models.formats.hf_folder import (
    export_model,
    export_segmentation_model,
    open_segmentation_model,
)
from cycleqd_jax.models.formats.peft_config import is_table
from cycleqd_jax.models.loading import LoadedModel, load_model
from cycleqd_jax.models.segmentation import SegmentationConfig
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.tasks import make_tasks
from cycleqd_jax.tasks.base import ProblemsSettings
from cycleqd_jax.training.sources import task_dialogues

_WEIGHT = ".weight"
_STD = 0.02  # transformers' initializer_range
_END = "<|end|>"
_SPECIAL = (_END, "<|system|>", "<|user|>", "<|assistant|>")
_MIN_VOCABULARY = len(_SPECIAL) + 256  # every byte has a token
# An empty system message, with which other templates keep theirs away, is left out.
_TEMPLATE = (
    "{% for message in messages if message['content'] %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class NewModelConfig(Section):
    """A model to be made.

    Attributes:
      seed: of the weights.
      output: the model's folder, in Hugging Face's form.
      tasks: names, or import paths "package.module:Class"; the tokeniser learns from
        right dialogues of their `train` problems. A segmentation model has none.
      problems: their number and seed.
      vocab_size: tokens, those of the 256 bytes and 4 special ones included.
      model: settings of its `config.json`, like model_type and hidden_size.
    """

    seed: Seed = 0
    output: PathText
    tasks: EachOnce[TaskName] = ()
    problems: ProblemsSettings = ProblemsSettings()
    vocab_size: Annotated[int, Field(ge=_MIN_VOCABULARY, le=10**6)] = 1024
    model: Mapping[Text, Any]

    @property
    def segments(self) -> bool:
        """True if the model is one of segmentation."""
        kinds = [family.model_type for family in SEGMENTATION_FAMILIES]
        return self.model.get("model_type") in kinds

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.segments and self.tasks:
            raise ValueError(
                f"tasks has {', '.join(self.tasks)}, but a segmentation model has no "
                "tokeniser to learn from them; leave tasks out"
            )
        if not self.segments and not self.tasks:
            raise ValueError(
                "tasks is missing; expected the tasks that the tokeniser learns from"
            )
        return self


def write_new_model(config: NewModelConfig, observer: Observer) -> None:
    """Makes a model and writes its folder, or finds it there already.

    Args:
      config: the settings; equal ones make equal bytes.
      observer: is told what was written.

    Raises:
      BadInputError: a setting is wrong, or the folder holds something else.
    """
    if config.segments:
        return _write_segmentation_model(config, observer)
    made, folder = make_new_model(config), pathlib.Path(config.output)
    if folder.is_dir() and any(folder.iterdir()):
        same = load_model(folder).fingerprint == made.fingerprint
        return _keep(folder, same, observer)
    card = (
        "# A model with random weights\n\nMade by `python -m experiments.new_model` "
        f"with seed {config.seed}; its tokeniser was learnt from the tasks "
        f"{', '.join(config.tasks)}. It is to be trained.\n"
    )
    export_model(folder, made.config, made.weights, made.tokenizer, card)
    size = sum(weight.size for weight in made.weights.values())
    observer.note(
        f"a model of {size:,} random weights and {config.vocab_size:,} tokens "
        f"-> {folder}"
    )


def _write_segmentation_model(config: NewModelConfig, observer: Observer) -> None:
    """As `write_new_model`."""
    kind = {"model_type": config.model["model_type"]}
    known = segmentation_config_from_hf(kind, "model").to_hf()
    for part, own in config.model.items():
        for name in own if isinstance(own, Mapping) else ():
            if name not in known.get(part, {}):
                raise BadInputError(f"model.{part}: has no setting {show(name)}.")
    sizes = segmentation_config_from_hf(config.model, "model")
    weights = random_segmentation_weights(sizes, config.seed)
    folder = pathlib.Path(config.output)
    if folder.is_dir() and any(folder.iterdir()):
        found, stored = open_segmentation_model(folder)
        prints = [weights_fingerprint(w) for w in (stored, weights)]
        return _keep(folder, found == sizes and prints[0] == prints[1], observer)
    card = (
        "# A model with random weights\n\nMade by `python -m experiments.new_model` "
        f"with seed {config.seed}. It is to be trained.\n"
    )
    export_segmentation_model(folder, sizes, weights, card)
    size = sum(weight.size for weight in weights.values())
    observer.note(f"a model of {size:,} random weights -> {folder}")


def _keep(folder: pathlib.Path, same: bool, observer: Observer) -> None:
    """Keeps the model that is there, or refuses another one."""
    if not same:
        raise BadInputError(
            f"output: {folder} holds another model; choose another output, or "
            "remove that folder to make it again."
        )
    observer.note(f"the model is complete in {folder} and is kept")


def make_new_model(config: NewModelConfig) -> LoadedModel:
    """The model of a config, not yet in its folder.

    Raises:
      BadInputError: a setting is wrong, or the dialogues have too few different pieces
        for `vocab_size`.
    """
    if "vocab_size" in config.model:
        raise BadInputError("model: vocab_size is given; it stands beside model.")
    sizes = config_from_hf({**config.model, "vocab_size": config.vocab_size}, "model")
    tasks = make_tasks(config.tasks, config.problems, {})
    texts = [
        message["content"]
        for task in tasks
        for dialogue in task_dialogues(task)
        for message in dialogue.messages
    ]
    tokenizer = learn_tokenizer(texts, config.vocab_size)
    weights = random_weights(sizes, jax.random.key(config.seed))
    return LoadedModel(sizes, weights, tokenizer, config.output)


def random_weights(config: ModelConfig, key: jax.Array) -> dict[str, np.ndarray]:
    """Initial weights as those of `transformers`, float32.

    Matrices are `N(0, 0.02^2)`, the scales of norms 1, biases 0.

    Args:
      config: of the model.
      key: one typed key; consumed.
    """
    shapes = config.weight_shapes()
    weights: dict[str, np.ndarray] = {}
    for (name, shape), subkey in zip(
        shapes.items(), jax.random.split(key, len(shapes)), strict=True
    ):
        if len(shape) > 1:
            weights[name] = np.asarray(_STD * jax.random.normal(subkey, shape))
        else:
            fill = 0 if name.endswith("bias") else 1
            weights[name] = np.full(shape, fill, np.float32)
    return weights


def random_segmentation_weights(
    config: SegmentationConfig, seed: int
) -> dict[str, np.ndarray]:
    """Initial weights of a small segmentation model, float32.

    Matrices and kernels are `N(0, 1 / inputs)`, as narrow layers need them; tables are
    `N(0, 0.02^2)`, random Fourier frequencies `N(0, 1)`, the scales of norms 1, biases
    0.

    Args:
      config: of the model.
      seed: of NumPy's generator, which needs no program per shape.
    """
    rng, weights = np.random.default_rng(seed), {}
    for name, shape in config.weight_shapes().items():
        if len(shape) == 1:
            fill = 0 if name.endswith("bias") else 1
            weights[name] = np.full(shape, fill, np.float32)
            continue
        std = _STD
        if name.endswith("positional_embedding"):
            std = 1.0
        elif name.endswith(_WEIGHT) and not is_table(name.removesuffix(_WEIGHT)):
            inputs = shape[0] if "upscale" in name else math.prod(shape[1:])
            std = inputs**-0.5
        weights[name] = np.float32(std) * rng.standard_normal(shape, np.float32)
    return weights


def learn_tokenizer(texts: Iterable[str], vocab_size: int) -> ChatTokenizer:
    """A byte-level BPE tokeniser with a minimal chat template.

    A digit is a token of its own, so that a model can copy numbers. A message is
    written as `<|ROLE|>CONTENT<|end|>`.

    Args:
      texts: to learn from; equal ones in one order give an equal tokeniser.
      vocab_size: number of tokens, at least 260.

    Raises:
      BadInputError: the texts have too few different pieces for so many tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    found = backend.get_vocab_size()
    if found < vocab_size:
        raise BadInputError(
            f"vocab_size is {vocab_size}, but the tasks' dialogues have pieces for "
            f"only {found} tokens; lower it, or raise problems.train."
        )
    return ChatTokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=backend,
            chat_template=_TEMPLATE,
            clean_up_tokenization_spaces=False,
            eos_token=_END,
            additional_special_tokens=list(_SPECIAL[1:]),
        )
    )
