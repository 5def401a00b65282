"""Tasks of lm-evaluation-harness in a search: problems, verdicts, refusals."""

import asyncio
import json
import sys

import pytest
import yaml

pytest.importorskip("lm_eval", reason="the extra `language` is not installed")

import language_tasks

from cycleqd_jax.chat import Likelihood, Reply
from cycleqd_jax.errors import BadInputError, MissingDataError, RunError
from cycleqd_jax.tasks.base import Outcome, Split, TaskSettings
from cycleqd_jax.tasks.registry import make_task

SIZES = {Split.TRAIN: 2, Split.OPTIMISE: 3, Split.VALIDATE: 2, Split.TEST: 4}
FUNCTIONS = """
def shares(doc, results):
    return {"words": min(len(results[0].split()) / 4, 1.0), "pairs": (1, 2)}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder of the task files."""
    folder = tmp_path_factory.mktemp("harness")
    tasks = language_tasks.write_tasks(folder, count=12)
    own = yaml.safe_load((tasks / "own_replies.yaml").read_text())
    metrics = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("words", "pairs")
    ]
    own |= {"task": "own_shares", "metric_list": metrics, "num_fewshot": 0}
    del own["filter_list"]
    text = yaml.safe_dump(own) + "process_results: !function own_functions.shares\n"
    (tasks / "own_shares.yaml").write_text(text)
    (tasks / "own_functions.py").write_text(FUNCTIONS)
    return tasks


@pytest.fixture(scope="module")
def make(files):
    def make(name: str, seed: int = 0, sizes=SIZES, **options):
        options = {"include": [str(files)]} | options
        return make_task(f"lm_eval:{name}", TaskSettings(seed, sizes, 1, options))

    return make


class Told:
    """A chat that says one text, and finds one continuation the likeliest."""

    def __init__(self, text: str):
        self.text, self.asked = text, []

    async def __call__(self, messages, options):
        self.asked.append((messages, options))
        return Reply(self.text)

    async def score(self, messages, continuation, options):
        self.asked.append((messages, options))
        likely = continuation.strip() == self.text
        return Likelihood(-1.0 if likely else -9.0, likely)


def play(task, problem, text: str):
    return asyncio.run(task.run(problem, Told(text), None))


def test_splits_are_disjoint_and_depend_on_the_seed(make):
    task, other = make("own_replies"), make("own_replies", seed=1)
    ids = {split: [p.id for p in task.problems(split)] for split in Split}
    assert {split: len(own) for split, own in ids.items()} == SIZES
    assert len({one for own in ids.values() for one in own}) == 11
    assert ids != {split: [p.id for p in other.problems(split)] for split in Split}
    assert task.fingerprint != other.fingerprint
    assert task.fingerprint == make("own_replies").fingerprint


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("name", ["own_choice", "own_letters"])
def test_the_likeliest_choice_is_judged(make, name, chat):
    task = make(name, apply_chat_template=chat)
    for problem in task.problems(Split.TEST):
        right = play(task, problem, problem.answer)
        assert right.outcome is Outcome.SOLVED and right.metrics["acc"] == 1.0
        assert problem.answer in right.explanation
        assert [[-1.0, True]] in json.loads(right.answer)
    choices = [q.continuation.strip() for q in task.questions(problem)]
    wrong = next(c for c in choices if c != problem.answer)
    assert play(task, problem, wrong).outcome is Outcome.WRONG


def test_a_chat_is_asked_with_the_tasks_examples(make):
    task = make("own_replies")
    problem, chat = task.problems(Split.TEST)[0], Told("river")
    asyncio.run(task.run(problem, chat, None))
    [(messages, options)] = chat.asked
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert messages[-1]["content"] == problem.prompt
    assert options.template is None
    assert options.stop_strings == ("\n", "Question:", "a")
    assert options.max_new_tokens == task.max_new_tokens == 20
    assert task.reference(problem)[:-1] == messages
    plain = make("own_replies", apply_chat_template=False, num_fewshot=0)
    asyncio.run(plain.run(problem, chat, None))
    [(message, *rest), options] = chat.asked[-1]
    assert not rest and options.template is not None
    assert message["content"] == problem.prompt
    assert plain.reference(problem) is None


def test_a_share_is_a_score(make):
    task = make("own_shares")
    problem = task.problems(Split.OPTIMISE)[0]
    half = play(task, problem, "two words")
    assert (half.outcome, half.score, half.answer) == (Outcome.SCORED, 0.5, "two words")
    assert half.metrics == {"words": 0.5}
    assert play(task, problem, "").outcome is Outcome.WRONG
    assert play(task, problem, "one two five six").outcome is Outcome.SOLVED


def test_a_task_that_fails_is_named(make, monkeypatch):
    task = make("own_shares")
    leaf = task.leaves["own_shares"]
    monkeypatch.setattr(leaf.config, "process_results", lambda doc, results: 1 / 0)
    with pytest.raises(RunError, match=r"own_shares/\d+.*ZeroDivisionError"):
        play(task, task.problems(Split.TEST)[0], "")


def test_a_group_mixes_its_tasks(make):
    task = make("own_group")
    problems = task.problems(Split.TEST)
    assert {p.id.partition("/")[0] for p in problems} == {"own_choice", "own_letters"}
    assert task.name == "own_group"


def test_a_file_is_a_task(make, files):
    path = files / "own_choice.yaml"
    task = make(path, include=[])
    assert task.name == "own_choice"
    assert task.problems(Split.TEST) == make("own_choice").problems(Split.TEST)


def test_the_code_beside_a_task_is_part_of_it(make, files):
    before = make("own_shares").fingerprint
    (files / "own_functions.py").write_text(FUNCTIONS + "# another version\n")
    assert make("own_shares").fingerprint != before


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("own_texts", {}, ["no metric that is better if higher"]),
        ("own_code", {}, ["runs what the model wrote"]),
        ("own_choice", {"metric": "f1"}, ["'f1'", "expected acc or acc_norm"]),
        ("own_shares", {"metric": "pairs"}, ["pairs", "from 0 to 1, like words"]),
        ("own_choice", {"metrik": "acc"}, ["did you mean metric"]),
        ("own_choice", {"include": ["nowhere"]}, ["nowhere is no folder"]),
        ("nowhere.yaml", {}, ["nowhere.yaml is missing"]),
        ("own_choice", {"sizes": {Split.TRAIN: 600}}, ["only 12 problems"]),
    ],
)
def test_what_is_wrong_is_said(make, name, options, words):
    with pytest.raises(BadInputError) as caught:
        make(name, **options)
    for word in words:
        assert word in str(caught.value)


def test_data_that_cannot_be_had_are_named(make, monkeypatch):
    import datasets

    def load_dataset(*args, **more):
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(MissingDataError, match=r"datasets\.load_dataset\(path='json'"):
        make("own_choice")


def test_without_the_harness_the_extra_is_named(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(BadInputError, match=r"pip install 'cycleqd-jax\[language\]'"):
        make("own_choice")


def test_recorded_replies_have_no_likelihoods(make):
    async def chat(messages, options):
        return Reply("")

    task = make("own_choice")
    with pytest.raises(BadInputError, match="log-probabilities"):
        asyncio.run(task.run(task.problems(Split.TEST)[0], chat, None))
