"""After the start nothing is compiled any more, whatever is asked."""

import concurrent.futures
import itertools
import json

import jax
import pytest
import served

from cycleqd_jax.serving.settings import ServeEngine

# No other test compiles programs of these sizes in the same process.
ENGINE = {
    "slots": 6,
    "length": 64,
    "prefill_rows": 5,
    "prefill_chunk": 16,
    "decode_steps": 4,
}
WAYS = [
    {"prompt": "a", "max_tokens": 2},
    {"prompt": "word " * 40, "max_tokens": 5, "temperature": 0.7, "seed": 1},
    {"prompt": ["b", "c d e f"], "max_tokens": 4, "temperature": 1.0, "top_p": 0.5},
    {"prompt": "b", "max_tokens": 3, "logprobs": 0},
    {"prompt": "c " * 30, "max_tokens": 1, "logprobs": 1, "echo": True},
    {"prompt": ["a b"] * 8, "max_tokens": 0, "logprobs": 5, "echo": True},
    {"prompt": "a", "max_tokens": 55, "n": 6},
]


@pytest.fixture(scope="module")
def compilations():
    """Names of what was compiled or read from the cache of compilations."""
    found = []

    def heard(event, seconds, **more):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(more.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(heard)
    return found


@pytest.mark.parametrize(
    "mode", ["factored", pytest.param("materialised", marks=pytest.mark.slow)]
)
def test_no_request_compiles(toy_run, compilations, mode):
    del compilations[:]
    settings = {"max_waiting": 500, "engine": ENGINE | {"mode": mode}}
    # The tests' precision is this thread's alone; the server's threads have none.
    with (
        jax.default_matmul_precision(None),
        served.serving(toy_run, warm_up=True, **settings) as there,
    ):
        # A request in the midst is answered before all is compiled.
        assert there.post("/v1/completions", WAYS[0] | {"model": "base"})[0] == 200
        assert not json.loads(there.get("/health")[1])["warm"]
        there.wait_until(lambda: json.loads(there.get("/health")[1])["warm"])
        assert len(compilations) >= 6  # else they are not counted
        del compilations[:]
        models = ["base", "aggregated", "trained_expert/toy_a", "champion/toy_b"]
        models += [m for m in there.app.state.catalogue.models() if "," in m][:1]

        def ask(way, model):
            return there.post("/v1/completions", way | {"model": model})[0]

        for way, model in zip(WAYS, itertools.cycle(models)):  # alone, then all at once
            assert ask(way, model) == 200
        pairs = list(itertools.product(WAYS, models))
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            assert set(pool.map(ask, *zip(*pairs, strict=True))) == {200}
        chat = {"model": "base", "messages": [{"role": "user", "content": "Hello"}]}
        chat |= {"logprobs": True, "top_logprobs": 20, "max_tokens": 3}
        assert there.post("/v1/chat/completions", chat)[0] == 200
    assert not compilations


def test_programs_are_few():
    engine = ServeEngine(length=1024)
    sizes = engine.spans, engine.row_counts(8), engine.row_counts(16)
    assert sizes == ((256, 1024), (1, 8), (2, 16))
