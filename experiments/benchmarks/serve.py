"""Suite `serve`: clients of several individuals at once, and one after another."""

import contextlib
import json
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from cycleqd_jax.errors import RunError
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.serving.app import app_of
from cycleqd_jax.serving.catalogue import Model
from cycleqd_jax.serving.desk import Desk
from cycleqd_jax.serving.server import listen, make_server
from cycleqd_jax.serving.settings import ServeEngine, ServeSettings
from experiments.benchmarks import frame, quickstart

_CLIENTS = 8  # each asks an individual of its own
_PROMPT, _NEW = 48, 64  # tokens
_TARGET = 2.0
_STARTED_S = 30.0


class _Endless(NamedTuple):
    """The tokenizer, but no token ends a reply: all replies are equally long."""

    inner: ChatTokenizer
    stop_ids: tuple[int, ...] = ()

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self.inner.decode(ids, skip_special_tokens)


class _Children(NamedTuple):
    """The individuals, in place of those of a run's folder."""

    genomes: Genome
    name: str = "benchmark"
    created: int = 0

    def models(self) -> dict[str, Model]:
        names = [f"child/{i + 1}" for i in range(_CLIENTS)]
        return {name: Model(name, name) for name in names}

    def find(self, name: str) -> tuple[Model, Genome]:
        return Model(name, name), self.genomes[int(name.removeprefix("child/")) - 1]


def run(options: frame.Options, say: frame.Say) -> list[frame.Row]:
    """Measures the suite."""
    config = quickstart.run_config(options)
    prepared = quickstart.prepared_run(config, say)
    children = quickstart.children_of(quickstart.experts_only(prepared), _CLIENTS)
    tokenizer = prepared.model.tokenizer
    engine = ServeEngine(slots=_CLIENTS, length=128, prefill_rows=_CLIENTS)
    loader = IndividualLoader(
        engine=Engine(prepared.program, _Endless(tokenizer), engine),
        weights=prepared.weights,
        basis=prepared.basis,
        mode="factored",
        individuals_per_pass=_CLIENTS,
    )
    settings = ServeSettings(port=0, engine=engine)
    app = app_of(_Children(children), Desk(loader, settings.max_waiting), settings)
    rng = np.random.default_rng(0)
    size = (_CLIENTS, _PROMPT)
    prompts = rng.integers(0, tokenizer.vocab_size, size).tolist()
    with _served(app, settings) as url, ThreadPoolExecutor(_CLIENTS) as pool:

        def ask(i: int) -> int:
            return _ask(url, f"child/{i + 1}", prompts[i])

        say("all clients at once, and one after another")
        numbers = range(_CLIENTS)
        ways = {
            "together": lambda: list(pool.map(ask, numbers)),
            "alone": lambda: list(map(ask, numbers)),
        }
        took = frame.medians(frame.measure(ways, options.repeats))
        first = frame.medians(frame.measure({"one": lambda: ask(0)}, options.repeats))
    rate = {name: _CLIENTS * _NEW / seconds for name, seconds in took.items()}
    note = f"over HTTP; {_PROMPT} tokens of prompt, {_NEW} new"
    return [
        frame.compare(
            f"{_CLIENTS} clients of {_CLIENTS} individuals at once",
            rate["together"],
            rate["alone"],
            "tokens/s",
            target=_TARGET,
            more_is_better=True,
            note=f"the same requests one after another; {note}",
        ),
        frame.figure("one client alone", _NEW / first["one"], "tokens/s", note=note),
    ]


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
    with urllib.request.urlopen(request) as answer:
        tokens = json.load(answer)["usage"]["completion_tokens"]
    if tokens != _NEW:
        raise RunError(f"serve: a reply has {tokens} tokens, expected {_NEW}.")
    return tokens
