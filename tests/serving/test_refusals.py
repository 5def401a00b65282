"""What the endpoint refuses: one sentence in OpenAI's form, with the right status."""

import http.client
import json
import threading

import pytest
import served

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]


def chat(**more):
    return {"model": "base", "messages": HELLO, "max_tokens": 2} | more


def text(**more):
    return {"model": "base", "prompt": "hello", "max_tokens": 2} | more


def error_of(answer) -> dict:
    """The error, which is one sentence."""
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    message = error["message"]
    assert message.endswith(".") and "\n" not in message and len(message) < 700
    return error


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "words"),
    [
        (CHAT, b"{broken", 400, None, "is not JSON"),
        (CHAT, b'\xff\xfe"', 400, None, "is not JSON"),
        (CHAT, b'["a"]', 400, None, "expected a JSON object"),
        (CHAT, b"[" * 100_000, 400, None, "is not JSON"),
        (CHAT, b'{"model": "\\ud83d"}', 400, None, "half of a character"),
        (CHAT, b'{"model": "base", "temperature": NaN}', 400, "temperature",
         "finite number"),
        (CHAT, chat(model="xyz"), 404, "model", "'xyz' does not exist in run; GET"),
        (CHAT, chat(model="Champoin/toy_a"), 404, "model",
         "did you mean champion/toy_a? GET /v1/models lists all, and so does "
         "the report."),
        (CHAT, chat(model="x" * 9000), 404, "model", "does not exist"),
        (CHAT, chat(model=7), 400, "model", "valid string (given: 7)"),
        (CHAT, {"model": "base"}, 400, "messages", "messages: Field required"),
        (CHAT, chat(messages=[]), 400, "messages", "at least 1"),
        (CHAT, chat(messages="hello"), 400, "messages", "valid list"),
        (CHAT, chat(messages=[{"role": "tool", "content": ""}]), 400, "messages",
         "'assistant'"),
        (CHAT, chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
         400, "messages", "parts of type text"),
        (CHAT, chat(temperature="hot"), 400, "temperature", "valid number"),
        (CHAT, chat(temperature=3), 400, "temperature", "equal to 2"),
        (CHAT, chat(top_p=0), 400, "top_p", "greater than 0"),
        (CHAT, chat(n=0), 400, "n", "greater than or equal to 1"),
        (CHAT, chat(max_tokens=0), 400, "max_tokens", "greater than or equal to 1"),
        (CHAT, chat(max_tokens=True), 400, "max_tokens", "valid integer"),
        (CHAT, chat(seed=1.5), 400, "seed", "valid integer"),
        (CHAT, chat(stop=""), 400, "stop", "at least 1"),
        (CHAT, chat(stop=["a", 3]), 400, "stop", "valid string (given: 3)"),
        (CHAT, chat(top_logprobs=2), 400, None, "expected logprobs true"),
        (CHAT, chat(logprobs=True, top_logprobs=21), 400, "top_logprobs", "20"),
        (CHAT, chat(tools=[{"type": "function"}]), 400, "tools", "no such option"),
        (CHAT, chat(presence_penalty=0.5), 400, "presence_penalty", "leave it out"),
        (CHAT, chat(temprature=1), 400, "temprature", "did you mean temperature?"),
        (CHAT, chat(n=128, stream=True), 400, None, "takes 16 at most"),
        (CHAT, chat(messages=[{"role": "user", "content": "word " * 200}]), 400, None,
         "takes 95 at most"),
        (TEXT, text(prompt=""), 400, None, "prompt is empty"),
        (TEXT, text(prompt=[]), 400, None, "empty list"),
        (TEXT, text(prompt=[[]]), 400, None, "prompt is empty"),
        (TEXT, text(prompt=[1, "a"]), 400, "prompt", "prompt"),
        (TEXT, text(prompt=[-1]), 400, "prompt", "expected ids from 0 to"),
        (TEXT, text(prompt=[10**30]), 400, "prompt", "expected ids from 0 to"),
        (TEXT, text(prompt=[5] * 96), 400, None, "has 96 tokens; this server takes 95"),
        (TEXT, text(prompt=[5] * 98, max_tokens=0), 400, None, "takes 97 at most"),
        (TEXT, text(logprobs=6), 400, "logprobs", "less than or equal to 5"),
        (TEXT, text(best_of=3), 400, "best_of", "no such option"),
        (TEXT, text(suffix="x"), 400, "suffix", "no such option"),
    ],
)  # fmt: skip
def test_bad_requests(endpoint, path, body, status, param, words):
    got, answer = endpoint.post(path, body)
    error = answer["error"]
    assert got == status, error
    assert words in error["message"] and error["param"] == param
    if not error["message"].endswith("?"):
        error_of(answer)
    if "tokens; this" in error["message"]:
        assert error["code"] == "context_length_exceeded"


def test_what_changes_nothing_is_taken(endpoint):
    more = {"user": "me", "frequency_penalty": 0, "tools": [], "seed": None,
            "response_format": {"type": "text"}, "stop": None}  # fmt: skip
    whole = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    _, plain = endpoint.post(CHAT, chat())
    status, got = endpoint.post(CHAT, chat(**more, messages=[whole | {"name": None}]))
    assert status == 200 and got["choices"] == plain["choices"]
    # 97 tokens can be scored: the last is only a target.
    scored = text(prompt=[5] * 97, max_tokens=0, echo=True, logprobs=0)
    status, got = endpoint.post(TEXT, scored)
    assert status == 200 and len(got["choices"][0]["logprobs"]["tokens"]) == 97


def test_paths_methods_and_sizes(endpoint):
    status, answer = endpoint.post("/v1/embeddings", {})
    assert status == 404 and "/v1/embeddings" in error_of(answer)["message"]
    assert endpoint.get(CHAT)[0] == 405
    assert endpoint.get("/v1/models/none/such")[0] == 404
    connection = http.client.HTTPConnection(endpoint.url.removeprefix("http://"))
    connection.putrequest("POST", CHAT)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(9 * 2**20))
    connection.endheaders(b" " * (9 * 2**20))
    with connection.getresponse() as response:
        assert response.status == 413
        assert "too large" in error_of(json.load(response))["message"]
    connection.close()
    plain = {"Content-Type": "text/plain"}  # what any web page may send
    status, answer = endpoint.post(CHAT, chat(), **plain)
    assert status == 415 and "application/json" in error_of(answer)["message"]


def test_health_and_metrics(endpoint):
    assert endpoint.get("/health")[0] == 200
    before = endpoint.metric("cycleqd_completion_tokens_total")
    _, answer = endpoint.post(CHAT, chat(max_tokens=5))
    used = answer["usage"]["completion_tokens"]
    assert endpoint.metric("cycleqd_completion_tokens_total") == before + used
    for line in endpoint.get("/metrics")[1].splitlines():
        assert line.startswith("# TYPE cycleqd_") or float(line.rpartition(" ")[2]) >= 0


def test_names_of_strangers_and_keys(toy_run):
    with served.serving(toy_run, api_key="secret", allowed_hosts=["proxy"]) as there:
        key = {"Authorization": "Bearer secret"}
        for headers, status in [
            ({}, 401),
            ({"Authorization": "Bearer secret2"}, 401),
            ({"Authorization": "Bearer sécret"}, 401),
            (key, 200),
            (key | {"Host": "proxy"}, 200),
            (key | {"Host": "evil.example:8000"}, 403),
        ]:
            coded = {k: v.encode("utf-8").decode("latin-1") for k, v in headers.items()}
            got, answer = there.post(CHAT, chat(), **coded)
            assert got == status, answer
            if status != 200:
                error_of(answer)
        assert there.get("/health")[0] == 200
        assert there.get("/metrics")[0] == 401 == there.get("/v1/models")[0]


def test_the_queue_has_an_end(toy_run):
    with served.serving(toy_run, max_waiting=2) as there:
        long = chat(n=10, max_tokens=80, temperature=1.5)
        answers = []
        asking = threading.Thread(target=lambda: answers.append(there.post(CHAT, long)))
        asking.start()
        there.wait_until(lambda: there.metric("cycleqd_replies_running") == 8)
        status, answer = there.post(CHAT, chat())
        if asking.is_alive():
            assert status == 429 and error_of(answer)["code"] == "queue_full"
        asking.join()
        assert answers[0][0] == 200
        assert there.post(CHAT, chat())[0] == 200


def test_a_client_that_is_killed_frees_its_slots(endpoint):
    body = json.dumps(chat(n=12, max_tokens=80, temperature=1.5, stream=True))
    host = endpoint.url.removeprefix("http://")
    before = endpoint.metric("cycleqd_completion_tokens_total")
    connection = http.client.HTTPConnection(host)
    connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200 and answer.readline().startswith(b"data: ")
    tokens = "cycleqd_completion_tokens_total"
    endpoint.wait_until(lambda: endpoint.metric(tokens) > before)
    answer.close()
    connection.close()
    endpoint.wait_until(lambda: endpoint.metric("cycleqd_replies_running") == 0)
    # Those of a reply that nobody waited for count too, as far as it came.
    assert 0 < endpoint.metric(tokens) - before < 12 * 80
    assert endpoint.metric("cycleqd_slots_taken") == 0
    assert endpoint.metric("cycleqd_replies_waiting") == 0
