"""The endpoint by OpenAI's own client."""

import asyncio
import concurrent.futures

import openai
import pytest

from cycleqd_jax.inference.requests import Limits, Sampling
from cycleqd_jax.runs.opened import open_run

HELLO = [{"role": "user", "content": "toy_a test 1"}]


@pytest.fixture(scope="module")
def client(endpoint):
    with openai.OpenAI(
        base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0
    ) as found:
        yield found


@pytest.fixture(scope="module")
def direct(endpoint, toy_run):
    """The reply of an individual to token ids by the engine alone."""
    import served as world

    from cycleqd_jax.evaluation.loader import IndividualLoader
    from cycleqd_jax.inference.engine import Engine
    from cycleqd_jax.inference.settings import EngineSettings

    desk = endpoint.app.state.desk
    ours = desk._loader
    engine = Engine(
        ours.engine._program, ours.engine.tokenizer, EngineSettings(**world.ENGINE)
    )
    loader = IndividualLoader(engine, ours.weights, ours.basis, "factored", 8)
    opened = open_run(toy_run)

    def ask(name, prompt, limits, **options):
        def jobs(_, row):
            return [engine.generate(prompt, limits, individual=row, **options)]

        individuals = {name: opened.individual(opened.resolve(name))}
        [[reply]] = asyncio.run(loader.run(individuals, jobs))
        return reply

    return ask


def test_models_are_all_individuals_and_cells(client, endpoint, toy_run):
    found = {model.id: model for model in client.models.list()}
    opened = open_run(toy_run)
    assert set(opened.names()) < set(found)
    assert {"base", "aggregated", "best_of_archive", "champion/toy_a"} < set(found)
    cells = opened.cells()
    assert cells and set(cells) == set(found) - set(opened.names())
    name = next(iter(cells))
    assert client.models.retrieve(name).individual == cells[name]
    assert found["champion/toy_b"].individual == opened.resolve("champion/toy_b")


def test_a_chat_is_the_engines_reply(client, direct, endpoint):
    tokens = endpoint.app.state.desk.engine.encode(HELLO)
    for name in ("base", "champion/toy_a", "aggregated"):
        want = direct(name, tokens, Limits(9))
        got = client.chat.completions.create(model=name, messages=HELLO, max_tokens=9)
        [choice] = got.choices
        assert choice.message.content == want.text
        assert choice.finish_reason == str(want.finish)
        usage = got.usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (
            len(tokens),
            len(want.tokens),
        )


def test_replies_of_all_models_at_once_are_those_of_each_alone(
    client, direct, endpoint
):
    names = [model.id for model in client.models.list()]
    names = [name for name in names if not name.startswith("trained_expert")]
    tokens = endpoint.app.state.desk.engine.encode(HELLO)
    cells = open_run(endpoint.app.state.catalogue.opened.path).cells()

    def ask(name):
        got = client.chat.completions.create(model=name, messages=HELLO, max_tokens=9)
        return got.choices[0].message.content

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        together = dict(zip(names, pool.map(ask, names), strict=True))
    assert len(set(together.values())) > 3
    for name in names:
        assert together[name] == direct(cells.get(name, name), tokens, Limits(9)).text


@pytest.mark.parametrize("stop", [None, "e", ["in", "ing the"]])
def test_a_stream_adds_up_to_the_whole(client, stop):
    options = {"model": "champion/toy_b", "messages": HELLO, "max_tokens": 24}
    options |= {"temperature": 1.0, "seed": 5, "n": 3}
    if stop:
        options["stop"] = stop
    whole = client.chat.completions.create(**options)
    texts, ends, usage = {}, {}, None
    stream = client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts.setdefault(choice.index, []).append(choice.delta.content or "")
            ends[choice.index] = choice.finish_reason or ends.get(choice.index)
    assert {i: "".join(parts) for i, parts in texts.items()} == {
        c.index: c.message.content for c in whole.choices
    }
    assert ends == {c.index: c.finish_reason for c in whole.choices}
    assert usage == whole.usage
    assert len({c.message.content for c in whole.choices}) > 1  # seeds differ
    assert chunks[0].choices[0].delta.role == "assistant"
    if stop is None:
        assert max(map(len, texts.values())) > 4  # it came in pieces
    else:
        stops = [stop] if isinstance(stop, str) else stop
        for choice in whole.choices:
            assert not any(one in choice.message.content for one in stops)


def test_draws_depend_on_the_seed_alone(client, direct, endpoint):
    tokens = endpoint.app.state.desk.engine.encode(HELLO)
    options = {"model": "child/2", "messages": HELLO, "max_tokens": 12}
    options |= {"temperature": 0.7, "top_p": 0.9}
    options["model"] = next(n.id for n in client.models.list() if "child/" in n.id)
    got = [
        client.chat.completions.create(**options, seed=seed).choices[0].message.content
        for seed in (7, 7, 8)
    ]
    sampling = Sampling(0.7, top_p=0.9, seed=7)
    want = direct(options["model"], tokens, Limits(12), sampling=sampling)
    assert got[0] == got[1] == want.text != got[2]


def test_logprobs_of_a_chat(client, direct, endpoint):
    tokens = endpoint.app.state.desk.engine.encode(HELLO)
    options = {"model": "expert/toy_c", "messages": HELLO, "max_tokens": 6}
    plain = client.chat.completions.create(**options)
    assert plain.choices[0].logprobs is None
    got = client.chat.completions.create(**options, logprobs=True, top_logprobs=3)
    want = direct("expert/toy_c", tokens, Limits(6), logprobs=True, num_top=5)
    content = got.choices[0].logprobs.content
    assert [one.logprob for one in content] == pytest.approx(want.logprobs, abs=1e-5)
    for one in content:
        assert len(one.top_logprobs) == 3
        # Greedy: each token is the most likely one.
        assert one.top_logprobs[0].logprob == one.logprob
        assert one.top_logprobs[0].token == one.token
        ranked = [top.logprob for top in one.top_logprobs]
        assert ranked == sorted(ranked, reverse=True)
    streamed = client.chat.completions.create(
        **options, logprobs=True, top_logprobs=3, stream=True
    )
    parts = [c.choices[0].logprobs for c in streamed]
    together = [one for part in parts if part for one in part.content]
    assert [o.token for o in together] == [o.token for o in content]
    assert [o.logprob for o in together] == [o.logprob for o in content]


def test_a_last_message_of_the_assistant_is_continued(client, endpoint, direct):
    messages = [*HELLO, {"role": "assistant", "content": "The sum"}]
    tokens = endpoint.app.state.desk.engine.encode(messages)
    got = client.chat.completions.create(
        model="base", messages=messages, max_completion_tokens=5
    )
    assert got.choices[0].message.content == direct("base", tokens, Limits(5)).text


def test_completions_of_texts_and_ids_in_batches(client, endpoint, direct):
    tokenizer = endpoint.app.state.desk.engine.tokenizer
    texts = ["One two", "Three", "Four five six"]
    ids = [tokenizer.encode_text(text) for text in texts]
    options = {"model": "champion/toy_c", "max_tokens": 5}
    by_text = client.completions.create(prompt=texts, **options)
    by_ids = client.completions.create(prompt=ids, **options)
    one = client.completions.create(prompt=ids[1], echo=True, **options)
    want = [direct("champion/toy_c", i, Limits(5)) for i in ids]
    assert [c.text for c in by_text.choices] == [w.text for w in want]
    assert [c.text for c in by_ids.choices] == [w.text for w in want]
    assert [c.index for c in by_ids.choices] == [0, 1, 2]
    assert by_ids.usage.prompt_tokens == sum(map(len, ids))
    assert one.choices[0].text == "Three" + want[1].text


def test_echoed_logprobs_are_the_scores_of_the_engine(client, endpoint):
    tokenizer = endpoint.app.state.desk.engine.tokenizer
    ids = tokenizer.encode_text("Seven lanterns by the river were orange")
    got = client.completions.create(
        model="aggregated", prompt=[ids], echo=True, logprobs=1, max_tokens=1
    )
    found = got.choices[0].logprobs
    assert len(found.tokens) == len(ids) + 1
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    assert "".join(found.tokens[:-1]) == tokenizer.decode(ids)
    assert found.text_offset[:2] == [0, len(found.tokens[0])]
    scores = zip(found.token_logprobs[1:], found.top_logprobs[1:], strict=True)
    for own, top in scores:
        assert own in top.values() and max(top.values()) >= own
    # The last token is greedy, so it is the most likely one.
    assert found.token_logprobs[-1] == max(found.top_logprobs[-1].values())
    # The reply to a prefix gives the same probability to its next token.
    prefix = client.completions.create(
        model="aggregated", prompt=[ids[:4]], logprobs=5, max_tokens=1
    )
    shown = prefix.choices[0].logprobs.top_logprobs[0]
    best = max(found.top_logprobs[4].values())
    assert max(shown.values()) == pytest.approx(best, abs=1e-4)
    streamed = client.completions.create(
        model="aggregated", prompt=[ids], echo=True, logprobs=1, max_tokens=1,
        stream=True,
    )  # fmt: skip
    chunks = [c for chunk in streamed for c in chunk.choices]
    assert "".join(c.text for c in chunks) == got.choices[0].text
    assert chunks[0].logprobs.token_logprobs == found.token_logprobs
