"""Evaluation: both modes score alike, failures are never scores."""

import jax.numpy as jnp
import pytest

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.evaluation.base import mean_scores
from cycleqd_jax.merging.genome import base_genome, expert_genome, uniform
from cycleqd_jax.merging.individuals import TrainedExpert
from cycleqd_jax.merging.mode import choose_mode
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.engine_sizes import check_references
from cycleqd_jax.runs.setup import open_evaluator, prepare
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.tasks.base import Split


def open_with(settings, **engine):
    config = RunConfig.model_validate(
        settings | {"engine": settings["engine"] | engine}
    )
    prepared = prepare(config, None, Observer())
    sandbox = make_sandbox(config.sandbox)
    return prepared, open_evaluator(config, prepared, sandbox)


def without_time(episodes):
    return [(e.individual, e.task, e.problem, e.score, e.tokens) for e in episodes]


def test_factored_and_materialised_give_the_same_episodes(toy_settings):
    found = {}
    for mode in ("factored", "materialised"):
        prepared, opened = open_with(toy_settings, mode=mode)
        basis = prepared.basis
        models = {f"expert/{k}": expert_genome(basis, k) for k in range(3)}
        models |= {"base": base_genome(basis), "uniform": uniform(basis)}
        with opened as evaluator:
            found[mode] = evaluator.evaluate(models, Split.VALIDATE).episodes
        assert [e.individual for e in found[mode][::12]] == list(models)
    assert without_time(found["factored"]) == without_time(found["materialised"])
    scores = mean_scores(found["factored"])
    assert len({tuple(row.values()) for row in scores.values()}) > 1


def test_auto_takes_the_mode_by_the_work_it_adds(toy_settings):
    prepared, _ = open_with(toy_settings, mode="auto")
    assert prepared.mode.mode == "materialised"  # rank 6 of width 16 is much
    assert "work" in prepared.mode.reason
    wide = {name: jnp.zeros((4096, 4096)) for name in prepared.weights}
    assert choose_mode("auto", wide, prepared.basis).mode == "factored"
    assert choose_mode("materialised", wide, prepared.basis).mode == "materialised"


def test_a_failing_environment_stops_the_evaluation(toy_settings):
    class Broken:
        async def run(self, program):
            raise SandboxError("out of order")

        async def close(self):
            pass

    prepared, opened = open_with(toy_settings)
    with opened as evaluator:
        evaluator._sandbox = Broken()
        with pytest.raises(SandboxError, match="out of order"):
            evaluator.evaluate({"base": base_genome(prepared.basis)}, Split.TEST)


def test_prompts_that_do_not_fit_are_refused_before_work_starts(toy_settings):
    with pytest.raises(BadInputError, match=r"engine\.length.*toy_.*set it to 64"):
        open_with(toy_settings, length=32, decode_steps=4)


def test_a_subset_of_problems_gives_the_same_verdicts_for_less(toy_settings):
    prepared, opened = open_with(toy_settings)
    models = {"base": base_genome(prepared.basis)}
    chosen = {"toy_c": ["toy_c/validate/2"], "toy_a": ["toy_a/validate/3"]}
    with opened as evaluator:
        whole = evaluator.evaluate(models, Split.VALIDATE)
        some = evaluator.evaluate(models, Split.VALIDATE, problems=chosen)
        with pytest.raises(BadInputError, match="'toy_x' is not one of the tasks"):
            evaluator.evaluate(models, Split.VALIDATE, problems={"toy_x": []})
        with pytest.raises(BadInputError, match="'toy_a/test/0' is not a problem of"):
            bad = {"toy_a": ["toy_a/test/0"]}
            evaluator.evaluate(models, Split.VALIDATE, problems=bad)
    assert [e.problem for e in some.episodes] == [
        "toy_a/validate/3",
        "toy_c/validate/2",
    ]
    ids = {e.problem for e in some.episodes}
    want = [e for e in whole.episodes if e.problem in ids]
    assert without_time(some.episodes) == without_time(want)
    for found in (whole, some):  # one turn each: prompts and replies, nothing else
        counted = sum(e.prompt_tokens + len(e.tokens) for e in found.episodes)
        assert found.cost.tokens_forward == counted
    assert some.cost.tokens_backward == 0 and some.cost.seconds > 0


def test_reference_scores_equal_those_of_transformers(toy_settings):
    """Base and a trained expert: the sum over the reply and its end, to 1e-4."""
    torch = pytest.importorskip("torch")
    import transformers

    prepared, opened = open_with(toy_settings, mode="materialised")
    task = prepared.tasks[0]
    problem = task.problems(Split.TEST)[1]
    with opened as evaluator:
        models = {
            "base": base_genome(prepared.basis),
            "trained": TrainedExpert("toy_a"),
        }
        models["genome"] = expert_genome(prepared.basis, 0)
        found = evaluator.score(models, Split.TEST, problems={task.name: [problem.id]})
    got = found.scores
    assert [row.individual for row in got] == list(models)
    # A LoRA expert's genome is the expert as it was trained.
    assert got[1].logprob == pytest.approx(got[2].logprob, abs=1e-4)
    assert abs(got[0].logprob - got[1].logprob) > 1e-2
    net = transformers.LlamaForCausalLM.from_pretrained(toy_settings["base_model"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(toy_settings["base_model"])
    dialogue = task.dialogue(problem)
    text = tokenizer.apply_chat_template(
        dialogue[:1], tokenize=False, add_generation_prompt=True
    )
    prompt = tokenizer(text, add_special_tokens=False).input_ids
    answer = tokenizer(dialogue[1]["content"], add_special_tokens=False).input_ids
    answer = [*answer, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    with torch.no_grad():
        logits = net(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    want = sum(
        float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(answer)
    )
    assert got[0].tokens == len(answer)
    # Every token is computed once; the last one is only a target.
    assert found.cost.tokens_forward == 3 * (len(prompt + answer) - 1)
    assert got[0].logprob == pytest.approx(want, abs=1e-4)


def test_episodes_and_scores_together_are_the_same_and_take_fewer_tokens(toy_settings):
    prepared, opened = open_with(toy_settings)
    basis = prepared.basis
    models = {"uniform": uniform(basis), "one": expert_genome(basis, 1)}
    with opened as evaluator:
        episodes, cost = evaluator.evaluate(models, Split.OPTIMISE)
        scores, spent = evaluator.score(models, Split.OPTIMISE)
        evaluation, scoring = evaluator.evaluate_and_score(models, Split.OPTIMISE)
        nothing = evaluator.evaluate_and_score({}, Split.OPTIMISE)
    assert without_time(evaluation.episodes) == without_time(episodes)
    assert scoring.scores == scores
    assert evaluation.cost.tokens_forward == cost.tokens_forward
    # The prompts, of which only the last token is computed again.
    assert 0 < scoring.cost.tokens_forward < 0.7 * spent.tokens_forward
    assert nothing[0].episodes == [] and nothing[1].scores == []


def test_right_answers_that_do_not_fit_are_refused(toy_settings):
    prepared, opened = open_with(toy_settings)
    with opened:
        engine, tokenizer = prepared.engine, prepared.model.tokenizer
        check_references(prepared.tasks, Split.OPTIMISE, tokenizer, engine)
        long = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": "word " * 100},
        ]
        prepared.tasks[1].reference = lambda problem: long
        with pytest.raises(BadInputError, match=r"answer of toy_b/.* set it to \d+ or"):
            check_references(prepared.tasks, Split.OPTIMISE, tokenizer, engine)


def test_a_task_without_a_reference_answer_has_no_score(toy_settings):
    prepared, opened = open_with(toy_settings)
    prepared.tasks[1].reference = lambda problem: None
    with opened as evaluator:
        models = {"base": base_genome(prepared.basis)}
        rows = evaluator.score(models, Split.TEST).scores
    assert [row.logprob is None for row in rows] == [False] * 4 + [True] * 4 + [
        False
    ] * 4


def test_plain_texts_are_scored_as_by_transformers(toy_settings):
    """Every token of a text, after the token that begins or ends one; to 1e-4."""
    torch = pytest.importorskip("torch")
    import transformers

    texts = ["A short text.", "Another one, a little longer."]
    prepared, opened = open_with(toy_settings, mode="materialised")
    with opened as evaluator:
        models = {
            "base": base_genome(prepared.basis),
            "trained": TrainedExpert("toy_a"),
        }
        found, cost = evaluator.score_texts(models, texts)
    assert [(s.individual, s.problem) for s in found] == [
        (name, f"text/{i}") for name in models for i in (0, 1)
    ]
    net = transformers.LlamaForCausalLM.from_pretrained(toy_settings["base_model"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(toy_settings["base_model"])
    first = tokenizer.bos_token_id
    first = tokenizer.eos_token_id if first is None else first
    for score, text in zip(found, texts, strict=False):
        ids = [first, *tokenizer(text, add_special_tokens=False).input_ids]
        with torch.no_grad():
            logits = net(torch.tensor([ids])).logits[0].log_softmax(-1)
        want = sum(float(logits[i, token]) for i, token in enumerate(ids[1:]))
        assert score.logprob == pytest.approx(want, abs=1e-4)
        assert score.tokens == len(ids) - 1
    assert abs(found[0].logprob - found[2].logprob) > 1e-2
    assert cost.tokens_forward == sum(s.tokens for s in found)
