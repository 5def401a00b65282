"""lm-evaluation-harness on the endpoint gives the numbers of `hf` on an export."""

import random

import pytest

pytest.importorskip("lm_eval", reason="the extra `language` is not installed")
pytest.importorskip("tenacity", reason="the extra `test` is not installed")

import language_tasks
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI

from experiments import export

MODEL = "aggregated"


@pytest.fixture(scope="module")
def models(endpoint, toy_run, tmp_path_factory):
    """The harness's two models: of the endpoint and of an export."""
    folder = tmp_path_factory.mktemp("export") / "model"
    arguments = ["--individual", MODEL, "--no-adapter", "--to", str(folder)]
    assert export.main([str(toy_run), *arguments]) == 0
    served = LocalCompletionsAPI(
        model=MODEL,
        base_url=f"{endpoint.url}/v1/completions",
        tokenizer_backend="huggingface",
        tokenizer=str(folder),
        max_length=96,
        batch_size=3,
    )
    return served, HFLM(
        pretrained=str(folder), device="cpu", dtype="float32", batch_size=1
    )


def instances(kind, arguments):
    return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]


def test_log_likelihoods(models):
    rng = random.Random(2)
    rows = language_tasks.rows_of(rng, 5)
    asked = [
        (f"Question: {row['question']}\nAnswer:", f" {choice}")
        for row in rows
        for choice in row["choices"]
    ]
    # What greedy decoding gives is greedy.
    [reply] = models[1].generate_until(
        instances("generate_until", [("Seven", {"until": [], "max_gen_toks": 3})])
    )
    asked.append(("Seven", reply))
    got, want = (m.loglikelihood(instances("loglikelihood", asked)) for m in models)
    assert [p for p, _ in got] == pytest.approx([p for p, _ in want], abs=1e-3)
    assert [greedy for _, greedy in got] == [greedy for _, greedy in want]
    assert len({round(p, 2) for p, _ in got}) > 10


def test_whole_texts(models):
    rng = random.Random(3)
    texts = [(language_tasks.sentence(rng, n),) for n in (3, 20, 40)]
    asked = instances("loglikelihood_rolling", texts)
    got, want = (m.loglikelihood_rolling(asked) for m in models)
    assert got == pytest.approx(want, abs=1e-3)


def test_replies(models):
    options = {"until": ["\n", "a"], "max_gen_toks": 12, "do_sample": False}
    contexts = ["Seven lanterns", "The river is", "Question: winter?\nAnswer:"]
    asked = instances("generate_until", [(text, dict(options)) for text in contexts])
    got, want = (m.generate_until(asked) for m in models)
    assert got == want and any(got)
