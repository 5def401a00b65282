"""The harness with tasks of our own, its `hf` model, and ours with the same weights."""

import pathlib

import jax.numpy as jnp
import pytest

pytest.importorskip("lm_eval", reason="the extra `language` is not installed")

import language_tasks

from cycleqd_jax.evaluation.language.harness import find_tasks, load_task
from cycleqd_jax.evaluation.language.panel import Panel
from cycleqd_jax.evaluation.language.settings import HarnessSettings
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.models.llama.program import LlamaProgram
from cycleqd_jax.models.loading import load_model


@pytest.fixture(scope="session")
def own_tasks(tmp_path_factory) -> pathlib.Path:
    return language_tasks.write_tasks(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="session")
def load(own_tasks):
    """Loads one of our own tasks, with the default settings."""
    manager = find_tasks(list(language_tasks.TASKS), [str(own_tasks)])
    return lambda name: load_task(name, manager, HarnessSettings())


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
def loader_for(model):
    """One engine with the model's weights, whatever length is wanted."""
    loader = IndividualLoader(
        engine=Engine(LlamaProgram(model.config), model.tokenizer, SHAPE),
        weights={name: jnp.asarray(w) for name, w in model.weights.items()},
        basis=None,
        mode="materialised",
        individuals_per_pass=1,
    )
    return lambda length: loader


@pytest.fixture(scope="session")
def make_panel(loader_for):
    """A panel of the base model alone."""
    return lambda: Panel(loader_for, {"base": None})
