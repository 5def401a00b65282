"""Slots and length that the settings leave open."""

import jax
import pytest

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.inference.settings import EngineSettings, MeshSettings
from cycleqd_jax.models.llama.program import LlamaProgram
from cycleqd_jax.models.loading import load_model
from cycleqd_jax.runs.engine_size import cache_bytes, sized_engine
from cycleqd_jax.runs.memory import Machine, peek_inputs, run_memory
from cycleqd_jax.runs.prompts import longest_need
from cycleqd_jax.runs.setup import make_tasks, prepare
from cycleqd_jax.tasks.base import Split

AUTO = EngineSettings(slots="auto", length="auto", prefill_rows=6, prefill_chunk=16)


@pytest.fixture(scope="module")
def toy(toy_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return RunConfig.model_validate(toy_settings | {"run_dir": str(folder)})


@pytest.fixture(scope="module")
def known(toy):
    model = load_model(toy.base_model)
    return {
        "tasks": make_tasks(toy.tasks, toy.problems, {}),
        "splits": (Split.OPTIMISE,),
        "tokenizer": model.tokenizer,
        "token_bytes": cache_bytes(model.config, toy.dtype),
    }


def test_a_token_of_the_cache(toy):
    model = load_model(toy.base_model)
    cache = LlamaProgram(model.config).empty_cache(3, 32)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    assert size == 3 * 32 * cache_bytes(model.config, "float32")


def test_the_length_is_what_the_longest_problem_needs(known):
    need, problem = longest_need(known["tasks"], known["splits"], known["tokenizer"])
    got = sized_engine(AUTO, **known, room=10**12)
    assert got.length % 16 == 0 and got.length - 16 < need <= got.length
    assert got.slots == 64
    short = AUTO.model_copy(update={"length": got.length - 16})
    with pytest.raises(BadInputError, match=problem):
        sized_engine(short, **known, room=10**12)


def test_the_slots_are_what_there_is_room_for(known):
    one = known["token_bytes"] * sized_engine(AUTO, **known, room=10**12).length
    got = sized_engine(AUTO, **known, room=int(20.5 * one / 0.8))
    assert got.slots == 20
    divided = AUTO.model_copy(update={"mesh": MeshSettings(data=8)})
    assert sized_engine(divided, **known, room=int(20.5 * one / 0.8)).slots == 16
    with pytest.raises(BadInputError, match=r"6 slots of .* are left"):
        sized_engine(AUTO, **known, room=5 * one)


def test_numbers_are_left_as_they_are(known):
    given = EngineSettings(slots=40, length=192)
    assert sized_engine(given, **known, room=0) == given


def test_a_run_may_leave_both_open(toy):
    engine = toy.engine.model_copy(update={"slots": "auto", "length": "auto"})
    prepared = prepare(toy.model_copy(update={"engine": engine}), None, Quiet())
    assert prepared.engine.slots == 64
    assert prepared.engine.length % engine.prefill_chunk == 0


def test_a_mesh_shares_what_it_divides(toy):
    plan = run_memory(toy, peek_inputs(toy))
    mesh = toy.engine.model_copy(update={"mesh": MeshSettings(data=2, tensor=4)})
    divided = run_memory(
        toy.model_copy(update={"engine": mesh}), peek_inputs(toy)
    ).on_device
    for name, share in (("the base weights", 4), ("the KV cache", 8)):
        assert divided[name] == plan.on_device[name] // share
    machine = Machine(10**12, 10**9)
    used = sum(plan.on_device.values()) - plan.cache
    assert plan.room(machine) == 10**9 - used


class Quiet:
    """Hears nothing."""

    def phase(self, name):
        pass

    def note(self, text):
        pass
