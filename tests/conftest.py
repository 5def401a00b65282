"""What all tests share."""

import gc
import os
import pathlib
import shutil
import sys
import tempfile

import jax
import pytest

from cycleqd_jax.models.llama.config import LlamaConfig

_MOST_MAPS = 20_000
# Most programs of the tests run for less time than XLA needs to make them fast. Slow
# tests compile as users do.
_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# Subprocesses of tests, and import paths in their configs, find the toy task here.
TESTS = pathlib.Path(__file__).parent
sys.path.insert(0, str(TESTS / "support"))


class Programs:
    """A folder of compiled programs for one run of the tests, and all its processes.

    Many tests compile the same small programs; without it a quarter of the time of some
    files was spent on compiling them again.
    """

    def __init__(self, folder: str):
        self.folder = folder

    @pytest.hookimpl(optionalhook=True)  # of pytest-xdist
    def pytest_configure_node(self, node):
        node.workerinput["programs"] = self.folder

    def pytest_unconfigure(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def pytest_configure(config):
    given = getattr(config, "workerinput", {}).get("programs")
    if given is None:
        given = tempfile.mkdtemp(prefix="programs-")
        config.pluginmanager.register(Programs(given))
    if config.option.markexpr == "not slow":
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} {_QUICK}"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = given  # of commands in other processes
    jax.config.update("jax_compilation_cache_dir", given)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


@pytest.fixture(scope="session", autouse=True)
def exact_products():
    """References are float32 or float64: products must not be rounded below that."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forgets compiled programs before the process has too many memory maps.

    Each program takes a few, and the kernel allows a process 65530 of them; at the next
    one the process would be aborted.
    """
    yield
    with open("/proc/self/maps") as maps:
        count = sum(1 for _ in maps)
    if count > _MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def tiny_config() -> LlamaConfig:
    """A two-layer Llama with grouped queries and tied embeddings."""
    return LlamaConfig(
        vocab_size=160,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
    )


@pytest.fixture(scope="session")
def toy_settings(tmp_path_factory) -> dict:
    """Settings of a small run over a random model and three random experts."""
    import toy_world

    return toy_world.make_world(tmp_path_factory.mktemp("world"))


class WordTokenizer:
    """Token ids written out; 2 ends a turn; the template writes it and one more."""

    stop_ids = (2, 5)
    eos_id = 5

    def encode(self, text):
        return [int(word, 36) for word in text.split()]

    def encode_chat(self, messages, add_generation_prompt=True):
        ids = []
        for message in messages:
            ids += [1, *self.encode(message["content"]), 2, 9]
        return [*ids, 1] if add_generation_prompt else ids


@pytest.fixture
def word_tokenizer():
    return WordTokenizer()
