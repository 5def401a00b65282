"""A model from nothing: its tokeniser, its weights, its folder."""

import jax
import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.dialogues import examples_of, turn_end
from cycleqd_jax.models.loading import load_model, load_tokenizer
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.tasks import make_tasks
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.training.new_model import (
    NewModelConfig,
    make_new_model,
    random_weights,
    write_new_model,
)

TASKS = ("pocket_coding", "pocket_db", "pocket_os")
SETTINGS = {
    "seed": 1,
    "tasks": TASKS,
    "problems": {"train": 200, "optimise": 8, "validate": 8, "test": 8},
    "vocab_size": 700,
    "model": {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "tie_word_embeddings": True,
    },
}


def config_of(folder, **changes) -> NewModelConfig:
    return NewModelConfig(**{**SETTINGS, "output": str(folder / "new"), **changes})


@pytest.fixture(scope="module")
def made():
    return make_new_model(NewModelConfig(**SETTINGS, output="new"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_new_model(config_of(folder), Observer())
    return folder / "new"


@pytest.mark.parametrize(
    "text", ["SELECT MAX(a) FROM b;", "```bash\nls *.md\n```", " ü→😀\t\n ", "x" * 50]
)
def test_any_text_comes_back(made, text):
    assert made.tokenizer.decode(made.tokenizer.encode(text)) == text


def test_digits_are_tokens_of_their_own(made):
    tokenizer = made.tokenizer
    digits = [i for i in tokenizer.encode("n > 137") if tokenizer.decode([i]).isdigit()]
    assert [tokenizer.decode([i]) for i in digits] == ["1", "3", "7"]


def test_a_prompt_begins_the_dialogue_that_is_learnt(made):
    """Training and engine see the same tokens, and the reply has an end."""
    tokenizer, end = made.tokenizer, turn_end(made.tokenizer)
    messages = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "List the files."},
        {"role": "assistant", "content": "ls"},
        {"role": "user", "content": "And the folders?"},
        {"role": "assistant", "content": "ls -d */"},
    ]
    assert end in tokenizer.stop_ids
    (example,) = examples_of(messages, tokenizer, end)
    whole = tokenizer.encode_chat(messages, add_generation_prompt=False)
    assert list(example.tokens) == whole
    assert tokenizer.render(messages[:2]) == (
        "<|user|>List the files.<|end|><|assistant|>"
    )


def test_right_answers_fit_the_tasks_limit():
    """The committed vocabulary is large enough for every reply, in every split."""
    from cycleqd_jax.config import load_config

    config = load_config("experiments/configs/tiny_model.yaml", [], NewModelConfig)
    tokenizer = make_new_model(config).tokenizer
    for task in make_tasks(config.tasks, config.problems, {}):
        for split in Split:
            for problem in task.problems(split):
                dialogue = task.dialogue(problem)
                (example,) = examples_of(dialogue, tokenizer, turn_end(tokenizer))
                assert len(example.learnt) <= task.max_new_tokens, problem
                assert len(example.tokens) <= 80, problem


def test_weights_are_as_those_of_transformers(made):
    """Normal with deviation 0.02; norms are 1; each matrix has its own draws."""
    weights = random_weights(made.config, jax.random.key(1))
    assert weights.keys() == made.config.weight_shapes().keys()
    for name, weight in weights.items():
        assert weight.dtype == np.float32
        if weight.ndim == 1:
            np.testing.assert_array_equal(weight, 1.0)
        else:
            error = 5 * 0.02 / np.sqrt(weight.size)
            assert abs(weight.mean()) < error, name
            assert abs(weight.std() - 0.02) < error, name
    first = [w.flat[0] for w in weights.values() if w.ndim == 2]
    assert len(set(first)) == len(first)


def test_equal_settings_make_equal_bytes(written, tmp_path):
    write_new_model(config_of(tmp_path), Observer())
    names = sorted(path.name for path in written.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "new").iterdir())
    for name in names:
        mine = (tmp_path / "new" / name).read_bytes()
        assert mine == (written / name).read_bytes(), name


def test_the_folder_loads_here_and_in_transformers(written, made):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert load_model(written).fingerprint == made.fingerprint
    assert load_tokenizer(written).fingerprint == made.tokenizer.fingerprint
    model = AutoModelForCausalLM.from_pretrained(written)
    named = dict(model.named_parameters())
    for name, weight in made.weights.items():
        np.testing.assert_array_equal(named[name].detach().numpy(), weight)
    tokenizer = AutoTokenizer.from_pretrained(written)
    chat = [{"role": "user", "content": "a 12"}]
    text = tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
    )
    assert text == made.tokenizer.render(chat)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == made.tokenizer.encode_chat(chat)


def test_a_finished_model_is_kept_and_another_is_refused(written):
    before = {p.name: p.stat().st_mtime_ns for p in written.iterdir()}
    notes = []

    class Notes(Observer):
        def note(self, text):
            notes.append(text)

    write_new_model(config_of(written.parent), Notes())
    assert notes == [f"the model is complete in {written} and is kept"]
    with pytest.raises(BadInputError, match="holds another model"):
        write_new_model(config_of(written.parent, seed=2), Observer())
    assert before == {p.name: p.stat().st_mtime_ns for p in written.iterdir()}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vocab_size": 20000}, "dialogues have pieces for only"),
        ({"model": {**SETTINGS["model"], "vocab_size": 9}}, "stands beside model"),
        ({"model": {**SETTINGS["model"], "model_type": "gpt2"}}, "gpt2"),
        ({"model": {"model_type": "llama"}}, "hidden_size"),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(BadInputError, match=sentence):
        write_new_model(config_of(tmp_path, **changes), Observer())
    assert not (tmp_path / "new").exists()
