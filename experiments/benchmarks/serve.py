"""Suite `serve`: clients of several individuals at once, and one after another.

Its model is a small random one that it makes; --model names the config of a run, or the
folder of a run, whose individuals then answer.
"""

import contextlib
import json
import pathlib
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.merging.forms import DiagonalBasis, basis_shapes
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.models.base import CausalLM, Weights
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.loading import load_tokenizer
from cycleqd_jax.models.sharding import put_on_device
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.runs.engines import make_program
from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.serving.app import app_of
from cycleqd_jax.serving.catalogue import Model
from cycleqd_jax.serving.desk import Desk
from cycleqd_jax.serving.server import listen, make_server
from cycleqd_jax.serving.settings import ServeEngine, ServeSettings
from experiments.benchmarks import frame, quickstart

MODEL = "random"  # unless another is named
_SIZES = {  # of the random model
    "vocab_size": 8192,  # the first of the tokeniser's
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
_EXPERTS, _RANK = 3, 8
_CLIENTS = 8  # each asks an individual of its own
_PROMPT, _NEW = 24, 24  # tokens
_TARGET = 2.0
_STARTED_S, _ANSWERED_S = 30.0, 60.0  # then it has failed
_ENGINE = ServeEngine(slots=_CLIENTS, length=64, prefill_rows=_CLIENTS)


class _Endless(NamedTuple):
    """The tokenizer, but no token ends a reply: all replies are equally long."""

    inner: ChatTokenizer
    stop_ids: tuple[int, ...] = ()

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self.inner.decode(ids, skip_special_tokens)


class _World(NamedTuple):
    """A model and `_CLIENTS` of its individuals."""

    program: CausalLM
    tokenizer: ChatTokenizer
    weights: Weights
    basis: DiagonalBasis
    genomes: Sequence[Genome]


class _Catalogue(NamedTuple):
    """The individuals, in place of those of a run's folder."""

    genomes: Sequence[Genome]
    name: str = "benchmark"
    created: int = 0

    def models(self) -> dict[str, Model]:
        names = [f"child/{i + 1}" for i in range(_CLIENTS)]
        return {name: Model(name, name) for name in names}

    def find(self, name: str) -> tuple[Model, Genome]:
        return Model(name, name), self.genomes[int(name.removeprefix("child/")) - 1]


def run(options: frame.Options, say: frame.Say) -> list[frame.Row]:
    """Measures the suite."""
    world = _world(options, say)
    loader = IndividualLoader(
        engine=Engine(world.program, _Endless(world.tokenizer), _ENGINE),
        weights=world.weights,
        basis=world.basis,
        mode="factored",
        individuals_per_pass=_CLIENTS,
    )
    settings = ServeSettings(port=0, engine=_ENGINE)
    desk = Desk(loader, settings.max_waiting)
    desk.warm_up("child/1", world.genomes[0], say)
    app = app_of(_Catalogue(world.genomes), desk, settings)
    rng = np.random.default_rng(0)
    size = (_CLIENTS, _PROMPT)
    prompts = rng.integers(0, world.program.config.vocab_size, size).tolist()
    with _served(app, settings) as url, ThreadPoolExecutor(_CLIENTS) as pool:
        while not desk.is_warm:
            time.sleep(0.1)

        def ask(i: int) -> int:
            return _ask(url, f"child/{i + 1}", prompts[i])

        say("all clients at once, and one after another")
        ways = {
            "together": lambda: list(pool.map(ask, range(_CLIENTS))),
            "alone": lambda: list(map(ask, range(_CLIENTS))),
        }
        took = frame.medians(frame.measure(ways, options.repeats))
    rate = {name: _CLIENTS * _NEW / seconds for name, seconds in took.items()}
    count = sum(weight.size for weight in world.weights.values()) / 1e6
    return [
        frame.compare(
            f"{_CLIENTS} clients of {_CLIENTS} individuals at once",
            rate["together"],
            rate["alone"],
            "tokens/s",
            target=_TARGET,
            more_is_better=True,
            note="the same requests one after another; over HTTP, "
            f"{count:.3g} million weights, {_PROMPT} tokens of prompt, {_NEW} new",
        )
    ]


def _world(options: frame.Options, say: frame.Say) -> _World:
    """The model that `--model` names.

    Raises:
      BadInputError: it is no run or config, or has too few individuals.
    """
    if options.model == MODEL:
        return _random_world()
    if pathlib.Path(options.model).is_dir():
        return _world_of_run(options.model)
    prepared = quickstart.prepared_run(quickstart.run_config(options), say)
    state = quickstart.experts_only(prepared)
    return _World(
        prepared.program,
        prepared.model.tokenizer,
        prepared.weights,
        prepared.basis,
        _rows(quickstart.children_of(state, _CLIENTS)),
    )


def _random_world() -> _World:
    rng = np.random.default_rng(0)
    config = LlamaConfig(tie_word_embeddings=True, **_SIZES)
    shapes = config.weight_shapes()

    def drawn(shape: tuple[int, ...]) -> jax.Array:
        return jnp.asarray(0.05 * rng.standard_normal(shape, np.float32))

    basis = basis_shapes(
        {name: shape for name, shape in shapes.items() if "proj" in name},
        [None] * _EXPERTS,
        BasisSettings(rank=_RANK),
        expert_names=[f"expert_{k}" for k in range(_EXPERTS)],
    )
    basis = jax.tree.map(lambda array: drawn(array.shape).astype(array.dtype), basis)
    genomes = Genome(
        np.asarray(drawn((_CLIENTS, basis.genome_size))),
        np.zeros((_CLIENTS, _EXPERTS), np.float32),
    )
    return _World(
        make_program(config, "float32", _ENGINE),
        load_tokenizer(frame.DEFAULT_MODEL),
        {name: drawn(shape) for name, shape in shapes.items()},
        basis,
        _rows(genomes),
    )


def _world_of_run(folder: str) -> _World:
    opened = open_run(folder)
    found = [opened.individual(name) for name in opened.names()]
    genomes = [one for one in found if isinstance(one, Genome)][-_CLIENTS:]
    if len(genomes) < _CLIENTS or not isinstance(opened.basis, DiagonalBasis):
        raise BadInputError(
            f"model: expected a run with {_CLIENTS} individuals in factored form, got "
            f"{len(genomes)} in {folder}; give another run."
        )
    base = opened.load_base()
    return _World(
        make_program(base.config, opened.config.dtype, _ENGINE),
        base.tokenizer,
        put_on_device(base.weights),
        opened.basis,
        genomes,
    )


def _rows(genomes: Genome) -> list[Genome]:
    return [genomes[i] for i in range(_CLIENTS)]


@contextlib.contextmanager
def _served(app, settings: ServeSettings) -> Iterator[str]:
    """Serves on a free port; gives its address."""
    with listen(settings) as listener:
        server = make_server(app)
        sockets = {"sockets": [listener]}
        thread = threading.Thread(target=server.run, kwargs=sockets, daemon=True)
        thread.start()
        end = time.monotonic() + _STARTED_S
        while not server.started:
            if time.monotonic() > end or not thread.is_alive():
                raise RunError("serve: the server does not start.")
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/completions"
        finally:
            server.should_exit = True
            thread.join()


def _ask(url: str, model: str, prompt: list[int]) -> int:
    """Asks for one reply; returns its tokens."""
    body = {"model": model, "prompt": prompt, "max_tokens": _NEW}
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_ANSWERED_S) as answer:
            tokens = json.load(answer)["usage"]["completion_tokens"]
    except OSError as err:
        raise RunError(
            f"serve: a request failed or took more than {_ANSWERED_S:g} s ({err}); "
            "give a smaller model."
        ) from err
    if tokens != _NEW:
        raise RunError(f"serve: a reply has {tokens} tokens, expected {_NEW}.")
    return tokens
