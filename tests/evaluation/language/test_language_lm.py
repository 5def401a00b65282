"""Our model against the harness's own `hf` model with the same weights."""

import pytest
from lm_eval.api.instance import Instance

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.language.lm import EngineLM
from cycleqd_jax.evaluation.language.settings import HarnessSettings


@pytest.fixture(scope="module")
def make_lm(model, make_panel):
    def make(max_length=2048, **more):
        settings = HarnessSettings(chat_template_args={}, **more)
        return EngineLM(make_panel(), "base", model.tokenizer, settings, max_length)

    return make


def requests_of(kind: str, arguments) -> list[Instance]:
    return [
        Instance(kind, {}, argument, 0, metadata=("own", place, 1))
        for place, argument in enumerate(arguments)
    ]


def same_likelihoods(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for (value, greedy), (want, want_greedy) in zip(ours, theirs, strict=True):
        assert abs(value - want) < 1e-3
        assert greedy == want_greedy


PAIRS = [
    ("The river", " runs"),
    ("The river ", "runs"),  # the space moves into the continuation
    ("The river\n\n", "runs to the sea"),
    ("", "Nothing before it"),
    ("", "<|im_start|>user"),  # begins with what an empty context is taken for
    ("<|im_start|>user\nHello<|im_end|>\n", "<|im_start|>assistant\nHi"),
    ("Naïve Ω 漢字", " 🙂 done"),
    ("The river", " runs"),
    ("one two three " * 30, " four five"),  # is cut on the left
    ("The river", " is a long continuation that goes on " * 3),
]


@pytest.mark.parametrize("max_length", [2048, 40])
def test_likelihoods_of_odd_pairs(make_lm, hf, monkeypatch, max_length):
    monkeypatch.setattr(hf, "_max_length", max_length)
    requests = requests_of("loglikelihood", PAIRS)
    ours = make_lm(max_length).loglikelihood(requests)
    same_likelihoods(ours, hf.loglikelihood(requests))


@pytest.mark.parametrize("max_length", [2048, 16, 7])
def test_rolling_likelihoods(make_lm, hf, monkeypatch, max_length):
    monkeypatch.setattr(hf, "_max_length", max_length)
    texts = ["", "A", "The river runs. " * 4, "<|im_start|>user Ω", "seven " * 16]
    requests = requests_of("loglikelihood_rolling", [(text,) for text in texts])
    ours = make_lm(max_length).loglikelihood_rolling(requests)
    theirs = hf.loglikelihood_rolling(requests)
    assert ours == pytest.approx(theirs, abs=1e-3)


def reply_requests(hf) -> list[Instance]:
    """Stop strings are taken from what the model says without any."""
    prompts = ["The river", "Question: 2 + 2?\nAnswer:", "one two three " * 20, "Ω 🙂"]
    plain = {"until": [], "max_gen_toks": 24, "do_sample": False}
    free = hf.generate_until(
        requests_of("generate_until", [(p, plain) for p in prompts])
    )
    arguments = [(p, plain) for p in prompts]
    for prompt, text in zip(prompts, free, strict=True):
        assert len(text) > 30
        for until in ([text[11:14]], text[20:22], [text[25:28], text[9:11]]):
            arguments.append((prompt, plain | {"until": until}))
    arguments.append((prompts[0], {"until": "\n", "max_new_tokens": 5}))
    arguments.append((prompts[0], {"until": ["<|endoftext|>"], "temperature": 0}))
    return requests_of("generate_until", arguments)


@pytest.mark.parametrize("max_length", [2048, 56])
def test_replies(make_lm, hf, monkeypatch, max_length):
    requests = reply_requests(hf)
    if max_length < 256:  # the last request takes the default of max_gen_toks
        requests = requests[:-1]
    else:
        monkeypatch.setattr(type(hf), "max_gen_toks", 40)
        monkeypatch.setattr("cycleqd_jax.evaluation.language.lm._MAX_GEN_TOKS", 40)
    monkeypatch.setattr(hf, "_max_length", max_length)
    theirs = hf.generate_until(requests)
    assert make_lm(max_length).generate_until(requests) == theirs
    assert len(set(theirs)) > 10


def test_a_special_token_can_end_a_reply(make_lm, hf, model):
    """No text shows it, so it is looked for among the tokens."""
    plain = {"until": [], "max_gen_toks": 24, "do_sample": False}
    [request] = requests_of("generate_until", [("The river", plain)])
    lm = make_lm()
    full = lm.generate_until([request])[0]
    ids = lm.tokenizer.encode(full)
    lm = make_lm()
    lm._special = {lm.tokenizer.decode(ids[4]): ids[4]}
    plain["until"] = list(lm._special)
    cut = lm.generate_until([request])[0]
    assert full.startswith(cut) and len(cut) < len(full)


def test_chats(make_lm, hf):
    chat = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "2 + 2?"},
    ]
    begun = [*chat, {"role": "assistant", "content": "It is"}]
    lm = make_lm()
    assert lm.apply_chat_template(chat) == hf.apply_chat_template(chat)
    assert lm.apply_chat_template(begun, False) == hf.apply_chat_template(begun, False)
    assert lm.chat_template(True) == hf.chat_template(True)
    text = lm.apply_chat_template(chat)
    assert lm.tok_encode(text) == hf.tok_encode(text)


def test_what_the_engine_cannot_do_is_said(make_lm):
    for settings, word in [
        ({"num_beams": 4}, "num_beams=4"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"max_gen_toks": 4000}, "4000"),
    ]:
        [request] = requests_of("generate_until", [("Hello", settings)])
        with pytest.raises(BadInputError, match=word):
            make_lm().generate_until([request])


def test_draws_depend_on_the_seed(make_lm):
    settings = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 8}
    requests = requests_of("generate_until", [("The river", settings)] * 2)
    first = make_lm(seed=1).generate_until(requests)
    assert first == make_lm(seed=1).generate_until(requests)
    assert first[0] != first[1]  # repeats of one request
    assert first != make_lm(seed=2).generate_until(requests)


@pytest.mark.parametrize(
    "name", ["own_choice", "own_letters", "own_texts", "own_replies"]
)
@pytest.mark.parametrize("chat", [False, True])
def test_requests_of_whole_tasks(make_lm, hf, load, name, chat):
    """Few-shot prompts, as the harness writes them, plain and as chats."""
    task, lm = load(name)["tasks"][name], make_lm()
    task.set_config("num_fewshot", task.config.num_fewshot or 0)
    task.set_fewshot_seed(1234)
    task.build_all_requests(
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        chat_template=lm.apply_chat_template if chat else None,
    )
    kind = task.instances[0].request_type
    ours, theirs = (getattr(one, kind)(task.instances) for one in (lm, hf))
    if kind == "loglikelihood":
        same_likelihoods(ours, theirs)
    elif kind == "generate_until":
        assert ours == theirs
    else:
        assert ours == pytest.approx(theirs, abs=1e-3)
