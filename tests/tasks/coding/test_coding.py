"""The tasks: data and their errors, splits, prompts, samples, fingerprints."""

# ruff: noqa: E501 - one line per damaged row

import asyncio
import copy
import gzip
import hashlib
import io
import json
import logging
import urllib.error
import urllib.request

import evalplus.eval
import pytest

from cycleqd_jax.errors import BadInputError, MissingDataError, SandboxError
from cycleqd_jax.models.chat_template import DATE
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.tasks.base import Outcome, Split, TaskSettings
from cycleqd_jax.tasks.coding import truth
from cycleqd_jax.tasks.coding.judge import Verdict
from cycleqd_jax.tasks.coding.task import HumanEval, Mbpp, _metrics
from cycleqd_jax.tasks.registry import make_task as make_registered

from .conftest import HUMANEVAL_ROWS, KINDS, MBPP_ROWS

SIZES = {Split.TEST: 2, Split.OPTIMISE: 3, Split.VALIDATE: 1}
DOUBLE = "def double(n):\n    return n * 2\n"


# Data.


def changed(**fields):
    rows = copy.deepcopy(list(MBPP_ROWS))
    rows[2].update(fields)
    return [{k: v for k, v in row.items() if v is not ...} for row in rows]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"plus_input": ...}, "line 3: the field 'plus_input' is missing"),
        ({"atol": ...}, "line 3: the field 'atol' is missing"),
        ({"entry_point": 3}, "line 3: the field 'entry_point' is int; expected str"),
        ({"base_input": "x"}, "line 3: the field 'base_input' is str; expected list"),
        ({"base_input": []}, "line 3: base_input of Mbpp/9003 is empty"),
        ({"plus_input": [1]}, "line 3: plus_input of Mbpp/9003 has a call"),
        ({"plus_input": {"a": 1}}, "line 3: plus_input of Mbpp/9003 has a call"),
        ({"atol": -1}, "line 3: atol of Mbpp/9003 is -1"),
        ({"atol": True}, "line 3: atol of Mbpp/9003 is True"),
        ({"entry_point": "f(x)"}, "line 3: entry_point of Mbpp/9003"),
        ({"task_id": "HumanEval/3"}, "line 3: task_id is 'HumanEval/3'; expected Mbpp/"),
        ({"task_id": "Mbpp/9001"}, "line 3: Mbpp/9001 is there twice"),
        ({"task_id": "Mbpp/124", "base_input": [["1", "x"]]}, "line 3: base_input of Mbpp/124 has not the shape"),
        ({"task_id": "Mbpp/722", "base_input": [[3]]}, "line 3: base_input of Mbpp/722 has not the shape"),
        ({"task_id": "Mbpp/106", "base_input": [[3]]}, "line 3: base_input of Mbpp/106 has not the shape"),
        ({"prompt": "Write it."}, "Mbpp/9003: the prompt has no docstring"),
        ({"prompt": '"""Write it."""'}, "Mbpp/9003: the prompt has no assertion"),
    ],
)  # fmt: skip
def test_a_damaged_row_is_named(write_rows, fields, message):
    path = write_rows(changed(**fields))
    with pytest.raises(BadInputError) as caught:
        Mbpp(TaskSettings(options={"data": str(path), "sanitizer": "reference"}))
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_a_truncated_file_is_named(write_rows):
    path = write_rows(MBPP_ROWS)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadInputError, match=r"line 7: not JSON.*download was cut off"):
        Mbpp(TaskSettings(options={"data": str(path), "sanitizer": "reference"}))


def test_a_wrong_hash_is_named(make_task):
    right = make_task().data.sha256
    assert make_task(sha256=right.upper()).data.sha256 == right
    with pytest.raises(BadInputError, match=f"SHA-256 {'0' * 64}, got {right}.*curl"):
        make_task(sha256="0" * 64)
    with pytest.raises(BadInputError, match=r"expected MBPP\+ v0.2.0, got sha256:"):
        make_task(version="v0.2.0")


def test_an_unknown_version_is_known_by_its_hash(make_task, caplog):
    with caplog.at_level(logging.WARNING):
        task = make_task()
    digest = hashlib.sha256(task.data.path.read_bytes()).hexdigest()
    assert task.data.version == f"sha256:{digest}"
    assert "no known version of MBPP+" in caplog.text


def test_unknown_problems_and_rows_are_named(make_task):
    task = make_task()
    with pytest.raises(BadInputError, match=r"mbpp has no problem 'Mbpp/1'"):
        task.problem("Mbpp/1")
    with pytest.raises(BadInputError, match=r"mbpp has no problem 'x'"):
        task.transcript({"task_id": "x", "completion": ""})
    with pytest.raises(BadInputError, match=r"the field 'completion' is missing"):
        task.transcript({"task_id": "Mbpp/9001"})
    problem, replies = task.transcript({"task_id": "Mbpp/9001", "completion": "x"})
    assert (problem.id, replies) == ("Mbpp/9001", ("x",))


def test_missing_data_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = TaskSettings(options={"sanitizer": "reference"}, download=False)
    with pytest.raises(MissingDataError, match=r"curl -L https.*MbppPlus.jsonl.gz \|"):
        Mbpp(settings)
    with pytest.raises(MissingDataError, match=r"HumanEvalPlus-v0.1.10.jsonl"):
        HumanEval(settings)
    nowhere = TaskSettings(options={"data": str(tmp_path), "sanitizer": "reference"})
    with pytest.raises(BadInputError, match=r"task_settings.mbpp.data.*curl -L"):
        Mbpp(nowhere)


def test_a_release_is_downloaded_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = "".join(json.dumps(row) + "\n" for row in HUMANEVAL_ROWS)
    urls = []

    def open_url(url, timeout):
        urls.append(url)
        return io.BytesIO(gzip.compress(text.encode()))

    monkeypatch.setattr(urllib.request, "urlopen", open_url)
    settings = TaskSettings(options={"sanitizer": "reference"})
    first, second = HumanEval(settings), HumanEval(settings)
    assert len(urls) == 1 and urls[0].endswith("/v0.1.10/HumanEvalPlus.jsonl.gz")
    assert first.data == second.data
    assert first.data.path.parent == tmp_path / "evalplus"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not gzip",
        gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9],
        gzip.compress(b'{"a":', mtime=0),
    ],
)
def test_a_damaged_download_is_not_kept(tmp_path, monkeypatch, content):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(content))
    with pytest.raises(MissingDataError, match=r"could not be downloaded.*curl"):
        Mbpp(TaskSettings(options={"sanitizer": "reference"}))
    assert not list(tmp_path.rglob("*.jsonl"))


def test_no_network_is_missing_data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(MissingDataError, match="no route"):
        Mbpp(TaskSettings(options={"sanitizer": "reference"}))


# Settings, splits, prompts.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "evalplus"}, "rule: Extra inputs are not permitted; did you mean rules"),
        ({"rules": "mine"}, "mbpp.rules: Input should be 'evalplus' or 'reference' "),
        ({"samples": 0}, "mbpp.samples: Input should be greater than or equal to 1"),
        ({"samples": 5}, "mbpp: samples is 5 with temperature 0"),
        ({"top_p": 0.0}, "mbpp.top_p: .*given: 0.0"),
        ({"sha256": "x"}, "mbpp.sha256: .*given: 'x'"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(make_task, options, message):
    with pytest.raises(BadInputError, match=message):
        make_task(**options)


def test_splits_are_disjoint_and_seeded(make_task):
    task = make_task(sizes=SIZES)
    ids = {split: [p.id for p in task.problems(split)] for split in Split}
    assert [len(ids[s]) for s in SIZES] == [2, 3, 1] and not ids[Split.TRAIN]
    assert len({i for split in ids.values() for i in split}) == 6
    again = make_task(sizes=SIZES)
    assert all(again.problems(s) == task.problems(s) for s in Split)
    other = make_task(sizes=SIZES, seed=1)
    assert any(other.problems(s) != task.problems(s) for s in Split)
    with pytest.raises(BadInputError, match="has only 7 problems"):
        make_task(sizes={Split.TEST: 8})


@pytest.mark.parametrize(
    ("name", "only"), [("reference", Split.OPTIMISE), ("test", Split.TEST)]
)
def test_one_split_is_the_whole_file(make_task, name, only):
    task = make_task(sizes=SIZES, split=name)
    ids = [p.id for p in task.problems(only)]
    assert ids == [row["task_id"] for row in MBPP_ROWS]
    assert not any(task.problems(s) for s in Split if s is not only)


def asked_of(task, key, answer, replies="x"):
    """What the chat was asked."""
    seen = []

    class Watch:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        async def run(self, problem, chat, sandbox):
            result = await self.inner.run(problem, chat, sandbox)
            seen.extend(chat.asked)
            return result

    results = answer(Watch(task), [(key, replies)])
    return seen, results[0]


def test_the_reference_prompt_renders_as_published(make_task, answer):
    ((messages, options),), _ = asked_of(
        make_task(prompt="reference"), "Mbpp/9001", answer
    )
    rendered = render(messages, options.template)
    assert rendered == (
        "You are an exceptionally intelligent coding assistant that consistently "
        "delivers accurate and reliable responses to user instructions.\n\n"
        "@@ Instruction:\nWrite a function. Your code should satisfy the following "
        "assertion:\n```python\nassert double(1) == 2\n```\n\n@@ Response:```python"
    )
    stops = ("Instruction:", "Instruction", "Response:", "Response")
    assert options.stop_strings == stops
    assert (options.temperature, options.top_p) == (0.0, 1.0)


def render(messages, template):
    class Tokens:
        chat_template = None
        eos_token_id = 0

        @staticmethod
        def get_chat_template(template):
            return template

        @staticmethod
        def apply_chat_template(messages, chat_template, **settings):
            import jinja2

            environment = jinja2.Environment()
            return environment.from_string(chat_template).render(
                messages=messages, **settings
            )

    tokenizer = ChatTokenizer.__new__(ChatTokenizer)
    tokenizer._hf, tokenizer.date, tokenizer._arguments = Tokens(), DATE, {}
    return tokenizer.render(messages, True, template)


def test_the_default_prompt_is_a_user_message_and_a_fence(make_task, answer):
    ((messages, options),), _ = asked_of(make_task(), "Mbpp/9001", answer)
    assert [m["role"] for m in messages] == ["user", "assistant"]
    assert messages[-1]["content"] == "```python\n"
    assert options.template is None and options.stop_strings == ("\n```",)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("prompt", ["chat", "reference"])
def test_dialogues_end_with_a_right_reply(make_task, answer, name, prompt):
    task = make_task(name, prompt=prompt, split="reference")
    problems = task.problems(Split.OPTIMISE)
    replies = []
    for problem in problems:
        *_, user, last = task.dialogue(problem)
        assert user == {"role": "user", "content": problem.prompt}
        assert last["role"] == "assistant"
        replies.append(last["content"].removeprefix("```python"))
    # The legacy sanitiser would drop some of them.
    ids = [problem.id for problem in problems]
    results = answer(keep_code(task), list(zip(ids, replies, strict=True)))
    for result in results:
        assert result.metrics == {"base": 1.0, "plus": 1.0}, result.explanation


def keep_code(task):
    """The task without a sanitiser."""

    class AsItIs:
        async def sanitize(self, code, entry_point):
            return code

        def close(self):
            pass

    task._sanitizer = AsItIs()
    return task


def test_humaneval_takes_whole_functions_and_continuations(make_task, answer):
    task = keep_code(make_task("humaneval"))
    replies = {
        "HumanEval/0": [
            "    return sum(xs)",
            "def total(xs):\n    return sum(xs)\n```\nThat is all.",
            "def total(xs):\n    return len(xs)",
        ],
        "HumanEval/32": [
            "    return -xs[0] / xs[1] + 1e-6",
            "    return -xs[0] / xs[1] + 1e-2",
        ],
    }
    episodes = [(key, reply) for key, texts in replies.items() for reply in texts]
    base = [result.metrics["base"] for result in answer(task, episodes)]
    assert base == [1, 1, 0, 1, 0]


def test_both_are_registered(write_rows):
    for name, (kind, rows) in KINDS.items():
        options = {"data": str(write_rows(rows)), "sanitizer": "reference"}
        task = make_registered(name, TaskSettings(options=options))
        assert isinstance(task, kind) and task.name == name
        assert task.max_new_tokens == 512


# Samples.


def test_samples_are_drawn_apart_and_counted(make_task, answer):
    task = make_task(samples=4, temperature=0.8, top_p=0.95)
    wrong = "def double(n):\n    return n"
    half = "def double(n):\n    return n * 2 if n > 0 else 7\n"
    asked, result = asked_of(task, "Mbpp/9001", answer, [half, DOUBLE, wrong, wrong])
    assert len({options.seed for _, options in asked}) == 4
    assert {(o.temperature, o.top_p) for _, o in asked} == {(0.8, 0.95)}
    assert result.turns == 4 and result.outcome is Outcome.SOLVED
    assert result.metrics == {
        "base": 0.5,
        "plus": 0.25,
        "base_pass@1": 0.5,
        "plus_pass@1": 0.25,
        "base_pass@4": 1.0,
        "plus_pass@4": 1.0,
    }
    task = make_task(samples=4, temperature=0.8, top_p=0.95)
    again, _ = asked_of(task, "Mbpp/9001", answer, [wrong] * 4)
    assert [o.seed for _, o in again] == [o.seed for _, o in asked]


def test_the_first_sample_decides_the_outcome(make_task, answer):
    task = make_task(samples=2, temperature=1.0)
    wrong = "def double(n):\n    return n"
    _, result = asked_of(task, "Mbpp/9001", answer, [wrong, DOUBLE])
    assert result.outcome is Outcome.WRONG and result.metrics["base"] == 0.5
    _, result = asked_of(task, "Mbpp/9001", answer, ["", DOUBLE])
    assert result.outcome is Outcome.BAD_ACTION and result.metrics["base"] == 0.5


def test_pass_at_k_is_the_unbiased_estimate():
    def metrics(samples, right):
        verdicts = [Verdict(i < right, i < right, "") for i in range(samples)]
        return _metrics(verdicts)

    assert metrics(10, 0)["base_pass@1"] == 0 and metrics(10, 10)["base_pass@10"] == 1
    assert metrics(10, 3)["base_pass@1"] == pytest.approx(0.3)
    expected = evalplus.eval.estimate_pass_at_k(120, [7], 100)[0]
    assert metrics(120, 7)["plus_pass@100"] == pytest.approx(expected)


# Fingerprint, expected outputs, failures of the environment.


def test_the_fingerprint_changes_with_what_decides(make_task, write_rows):
    one = make_task(sizes=SIZES).fingerprint
    assert one == make_task(sizes=SIZES).fingerprint
    others = [
        make_task(sizes=SIZES, **options).fingerprint
        for options in (
            {"rules": "reference"},
            {"prompt": "reference"},
            {"samples": 2, "temperature": 1.0},
            {"temperature": 0.5},
            {"max_new_tokens": 100},
            {"seed": 1},
        )
    ]
    path = write_rows(changed(atol=1e-3))
    options = {"data": str(path), "sanitizer": "reference"}
    others.append(Mbpp(TaskSettings(0, SIZES, options=options)).fingerprint)
    assert len({one, *others}) == len(others) + 1


def test_expected_outputs_are_kept_and_made_again_if_damaged(
    make_task, answer, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    problem = make_task().data.problems["Mbpp/9001"]
    path = truth.truth_path(problem)

    def base():
        (result,) = answer(make_task(), [("Mbpp/9001", DOUBLE)])
        return result.metrics["base"]

    assert base() == 1 and path.is_file()
    content = json.loads(path.read_text())
    kept = path.stat().st_mtime_ns
    assert base() == 1 and path.stat().st_mtime_ns == kept
    content["base"][0][0] = content["base"][1][0]  # without the hash
    for damaged in (json.dumps(content), "", "[]", '{"sha256": 1}'):
        path.write_text(damaged)
        caplog.clear()
        assert base() == 1 and "computed again" in caplog.text
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("no folder")
    assert base() == 1 and "not kept" in caplog.text


def test_a_reference_solution_that_fails_is_the_data(write_rows, answer):
    rows = changed(canonical_solution="\ndef Diff(a, b):\n    return a.x\n")
    options = {"data": str(write_rows(rows)), "sanitizer": "reference"}
    task = Mbpp(TaskSettings(options=options))
    with pytest.raises(BadInputError, match=r"Mbpp/9003: its reference solution.*Attr"):
        answer(task, [("Mbpp/9003", "def Diff(a, b):\n    return a")])


def test_a_broken_sandbox_is_no_verdict(make_task, script):
    class Broken:
        async def run(self, program):
            raise SandboxError("disk full")

    task = make_task()

    async def main():
        try:
            await task.run(task.problem("Mbpp/9005"), script(DOUBLE), Broken())
        finally:
            await task.aclose()

    with pytest.raises(SandboxError, match="Mbpp/9005: disk full"):
        asyncio.run(main())
