"""The harness with tasks of our own, its `hf` model, and ours with the same weights."""

import pathlib

import jax.numpy as jnp
import pytest

pytest.importorskip("lm_eval", reason="the extra `language` is not installed")

import language_tasks

from cycleqd_jax.evaluation.language.task import Harness, Protocol
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.models.llama.program import LlamaProgram
from cycleqd_jax.models.loading import load_model


@pytest.fixture(scope="session")
def own_tasks(tmp_path_factory) -> pathlib.Path:
    return language_tasks.write_tasks(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="session")
def harness(own_tasks):
    """With the protocol's defaults; finding all tasks takes seconds."""
    return Harness(Protocol(), [str(own_tasks)])


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


SHAPE = EngineSettings(
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
