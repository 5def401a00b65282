"""The memory of a run from shapes alone, what is refused, and the sizes of "auto"."""

import jax
import numpy as np
import pytest

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.retention import RetentionSettings
from cycleqd_jax.inference.settings import EngineSettings, MeshSettings
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.models.families import make_program
from cycleqd_jax.models.loading import load_expert, load_model
from cycleqd_jax.qd.archives import empty_archives
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.runs.device_memory import cache_bytes, tree_bytes
from cycleqd_jax.runs.engine_sizes import (
    check_prompts,
    check_references,
    choose_slots,
)
from cycleqd_jax.runs.memory import (
    Machine,
    plan_memory,
    size_text,
    this_machine,
)
from cycleqd_jax.runs.plan import find_inputs
from cycleqd_jax.runs.setup import prepare
from cycleqd_jax.runs.state_memory import state_memory
from cycleqd_jax.runs.tasks import make_tasks
from cycleqd_jax.tasks.base import Split

CONFIGS = "experiments/configs/"
GB = 10**9
BIG = Machine(host_bytes=2000 * GB, device_bytes=None)
FIVE = ["a:A", "b:B", "c:C", "d:D", "e:E"]


def preset(name, *settings):
    return load_config(f"{CONFIGS}{name}.yaml", settings, RunConfig)


def planned(config, machine=BIG):
    inputs = find_inputs(config)
    return plan_memory(config, inputs.model, inputs.basis(config), machine)


def memory_of(name, *settings):
    return planned(preset(name, *settings))


@pytest.fixture(scope="module")
def toy(toy_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return RunConfig.model_validate(toy_settings | {"run_dir": str(folder)})


def test_gradients_take_memory_of_their_own():
    """Coefficients and gradients of 8 genomes and 32 rows, stored layers, logits."""
    plain = memory_of("paper_lowrank")
    asking = memory_of("paper_lowrank", "qd.mutation=gradient")
    engine = preset("paper_lowrank").engine
    tokens, size = engine.prefill_rows * engine.prefill_chunk, plain.basis.genome_size
    rows = preset("paper_lowrank").qd.children_per_batch + tokens // 16
    want = 8 * rows * size + 2**30 + tokens * 8 * 128256
    more = asking.device["factored mode"] - plain.device["factored mode"]
    assert more == want > GB // 10


def test_the_presets_have_the_numbers_of_the_design():
    paper = memory_of("paper")
    assert paper.parameters == 8_030_261_248
    assert paper.device["the base weights"] == 2 * 8_030_261_248
    assert paper.mode.mode == "materialised"
    assert paper.state.genome_bytes == pytest.approx(8.75e6, rel=0.001)
    assert paper.state.total_bytes == pytest.approx(5.9e9, rel=0.02)
    assert paper.state.cells == 675 and paper.state.genomes == 675 + 3 + 8
    # K x min(out, in) columns of every matrix, in bfloat16: U and V by hand.
    layer = 2 * 4096 * 8192 + 2 * 1024 * 5120 + 3 * 4096 * 18432
    ends = 2 * 4096 * (128256 + 4096)
    basis = paper.device["the basis"]
    assert basis == pytest.approx(3 * 2 * (32 * layer + ends), rel=0.001)
    low = memory_of("paper_lowrank")
    assert low.mode.mode == "factored"
    assert low.device["the basis"] == pytest.approx(2.2e9, rel=0.02)
    rank_64 = memory_of("paper_lowrank", "basis.rank=64")
    assert rank_64.state.genome_bytes == pytest.approx(0.17e6, rel=0.03)
    assert rank_64.state.total_bytes == pytest.approx(0.12e9, rel=0.02)


def test_each_kind_of_genome():
    def genome(*settings):
        name = "paper_lowrank"
        return memory_of(name, "engine.mode=auto", "basis.rank=64", *settings)

    diagonal = genome().state.genome_bytes
    core = genome("qd.mutation=svd_child")
    assert core.mode.mode == "materialised"
    assert core.state.genome_bytes == pytest.approx(33e6, rel=0.02)
    noise = genome("qd.mutation=gaussian", "qd.num_generations=1200")
    assert noise.state.genome_bytes == diagonal + 4 * 1280  # multiples of 256
    with pytest.raises(BadInputError, match="mode is factored"):
        memory_of("paper_lowrank", "qd.mutation=gaussian")


def test_a_core_has_no_more_directions_than_its_matrix():
    slots = {
        slot.name.removeprefix("model.layers.0."): (slot.rows, slot.columns)
        for slot in memory_of("paper", "qd.mutation=svd_child").basis.layout
    }
    assert slots["self_attn.k_proj.weight"] == (1024, 3072)  # 1024 x 4096, K r = 3072
    assert slots["mlp.up_proj.weight"] == (12288, 4096)  # 14336 x 4096, K r = 12288


def test_the_plan_is_what_a_run_has_in_memory(toy):
    plan = planned(toy)
    model = load_model(toy.base_model)
    experts = [load_expert(path, model) for path in toy.expert_paths]
    assert plan.device["the base weights"] == tree_bytes(dict(model.weights))
    basis = compute_basis(model.weights, experts)
    assert plan.device["the basis"] == tree_bytes(basis)
    program = make_program(model.config)
    cache = program.empty_cache(toy.engine.slots, toy.engine.length)
    assert plan.device["the KV cache"] == tree_bytes(cache)
    assert plan.state == state_memory(toy, basis)


@pytest.mark.parametrize("num_tasks, kept", [(2, None), (3, None), (4, None), (3, 0.5)])
def test_archives_and_bank_have_the_planned_size(num_tasks, kept, toy):
    tasks = FIVE[:num_tasks]
    qd = toy.qd.model_copy(update={"bins": 6, "num_generations": 3})
    config = toy.model_copy(update={"tasks": tasks, "qd": qd})
    if kept:
        on = {"retention": RetentionSettings(passages=1, descriptor=True)}
        config = config.model_copy(update=on)
    genome = Genome(np.zeros(10, np.float32), np.zeros(num_tasks, np.float32))
    bank, row = Bank.empty(num_tasks), [0.5] * num_tasks
    for _ in tasks:
        bank = bank.add_expert(genome, row, retention=kept)
    for _ in range(3):
        bank = bank.add_child(
            genome, row, parents=[0, 1], weights=[1, 1], active=0, retention=kept
        )
    arrays = bank.to_numpy()
    del arrays["genome_ids"]
    basis = compute_basis(
        {"w": np.zeros((7, 10), np.float32)},
        [OneVector(k) for k in range(num_tasks)],
        expert_names=tasks,
    )
    state = state_memory(config, basis)
    ranges = [(0.0, 1.0)] * num_tasks
    archives = empty_archives(ranges, 6, retention=(0.5, 1.0) if kept else None)
    assert state.grid_bytes == tree_bytes(archives)
    assert state.cells == num_tasks * 6 ** (num_tasks if kept else num_tasks - 1)
    other = 4 * (basis.genome_size - 10) * bank.next_id
    assert state.bank_bytes == sum(a.nbytes for a in arrays.values()) + other


class OneVector:
    """A full expert that changes one matrix."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.weights = {"w": rng.standard_normal((7, 10)).astype(np.float32)}


def test_five_tasks_have_many_cells(toy):
    config = toy.model_copy(update={"tasks": FIVE})
    basis = planned(toy).basis
    fifteen = config.qd.model_copy(update={"bins": 15})
    state = state_memory(config.model_copy(update={"qd": fifteen}), basis)
    assert state.cells == 253_125
    # The experts of the basis and their children: never more genomes than individuals.
    assert state.genomes == state.individuals == basis.num_experts + 6
    absurd = config.qd.model_copy(update={"bins": 1000})
    with pytest.raises(BadInputError, match=r"5000000000000 cells.*fewer bins"):
        state_memory(config.model_copy(update={"qd": absurd}), basis)


def test_what_does_not_fit_is_said_with_numbers():
    paper = memory_of("paper")
    assert paper.misfit(BIG) is None
    assert paper.misfit(Machine(64 * GB, 141 * GB)) is None  # one large GPU
    on_gpu = paper.misfit(Machine(2000 * GB, 80 * GB))
    assert "the basis 64.9 GB" in on_gpu and "the accelerator has 80 GB" in on_gpu
    assert "basis.rank" in on_gpu
    small = paper.misfit(Machine(64 * GB, None))
    needed = sum(paper.device.values()) + sum(paper.host.values())
    assert 64 * GB < needed < 300 * GB
    assert f"the run needs {size_text(needed)}" in small
    assert "this machine has 64 GB" in small
    cache = memory_of("paper_lowrank", "engine.slots=2048")
    assert "engine.slots" in cache.misfit(Machine(2000 * GB, 141 * GB))
    assert memory_of("paper_lowrank").misfit(Machine(128 * GB, 141 * GB)) is None
    cores = memory_of("paper", "qd.mutation=svd_child")
    assert "archives and bank 17 TB" in cores.misfit(BIG)


def test_what_is_advised_helps():
    """Only what is part of the sum is to be changed, and what can save enough."""
    machine = Machine(128 * GB, 18 * GB)
    slots = "choose fewer engine.slots or a shorter engine.length and a lower basis"
    assert slots in memory_of("paper_lowrank").misfit(machine)
    smaller = "engine.slots=2", "engine.prefill_rows=2", "basis.rank=16"
    assert memory_of("paper_lowrank", *smaller).misfit(machine) is None
    # The weights alone are more than this.
    for name in ("paper", "paper_lowrank"):
        small = memory_of(name).misfit(Machine(16 * GB, None))
        assert "choose a smaller base_model, or a machine with more" in small


def test_a_mesh_shares_what_it_divides(toy):
    plan = planned(toy)
    mesh = toy.engine.model_copy(update={"mesh": MeshSettings(data=2, tensor=4)})
    divided = planned(toy.model_copy(update={"engine": mesh}))
    assert divided.device["the KV cache"] == plan.device["the KV cache"] // 8
    shapes = find_inputs(toy).model.weight_shapes()
    norms = 4 * sum(shape[0] for shape in shapes.values() if len(shape) == 1)
    # Each device has a copy of all norms, and of one side of all directions.
    matrices = plan.device["the base weights"] - norms
    assert divided.device["the base weights"] == matrices // 4 + norms
    basis = plan.device["the basis"]
    assert basis // 4 < divided.device["the basis"] < basis
    used = sum(plan.device.values()) - plan.device["the KV cache"]
    assert plan.room(Machine(10**12, 10**9)) == 10**9 - used
    used = sum(divided.device.values()) - divided.device["the KV cache"]
    assert divided.room(Machine(10**12, 10**9)) == 8 * (10**9 - used)


def test_auto_takes_the_mode_that_there_is_room_for():
    settings = "engine.mode=auto", "engine.slots=8", "basis.rank=256"
    config = preset("paper_lowrank", *settings)
    roomy, tight, tiny = (Machine(500 * GB, n * GB) for n in (80, 42, 16))
    materialised = planned(config, roomy)
    assert "28% of a pass's work" in materialised.mode.reason
    assert materialised.mode.mode == "materialised"
    assert materialised.misfit(tight) is not None
    factored = planned(config, tight)
    assert factored.mode.mode == "factored" and factored.misfit(tight) is None
    assert "materialised mode needs more memory" in factored.mode.reason
    assert planned(config, tiny).mode == materialised.mode


def test_a_run_that_does_not_fit_is_refused_before_it_loads(toy, monkeypatch):
    monkeypatch.setattr("cycleqd_jax.runs.setup.load_model", None)
    monkeypatch.setattr(
        "cycleqd_jax.runs.setup.this_machine", lambda: Machine(10**6, None)
    )
    with pytest.raises(BadInputError, match=r"the run needs .* has 1 MB; choose"):
        prepare(toy, None, Quiet())


AUTO = EngineSettings(slots="auto", length="auto", prefill_rows=6, prefill_chunk=16)


@pytest.fixture(scope="module")
def prompts(toy):
    tasks = make_tasks(toy.tasks, toy.problems, {})
    return tasks, (Split.OPTIMISE,), load_model(toy.base_model).tokenizer


def test_the_length_is_what_the_longest_problem_needs(prompts):
    tasks, _, tokenizer = prompts
    need = max(
        task.max_new_tokens
        + len(tokenizer.encode_chat(list(task.dialogue(problem))[:-1]))
        for task in tasks
        for problem in task.problems(Split.OPTIMISE)
    )
    got = check_prompts(*prompts, AUTO)
    assert got.length % 16 == 0
    assert got.length - 16 < need <= got.length
    short = AUTO.model_copy(update={"length": got.length - 16})
    with pytest.raises(BadInputError, match=rf"needs {need} .* to {got.length} "):
        check_prompts(*prompts, short)


def test_the_slots_are_what_there_is_room_for():
    engine = AUTO.model_copy(update={"length": 64})
    assert choose_slots(engine, 10, room=10**12).slots == 64
    room = int(20.5 * 640 / 0.8)
    assert choose_slots(engine, 10, room).slots == 20
    divided = engine.model_copy(update={"mesh": MeshSettings(data=8)})
    assert choose_slots(divided, 10, room).slots == 16
    with pytest.raises(BadInputError, match=r"6 slots of .* are left"):
        choose_slots(engine, 10, room=5 * 640)


def test_numbers_are_left_as_they_are(prompts):
    given = EngineSettings(slots=40, length=192)
    assert choose_slots(check_prompts(*prompts, given), 10, room=0) == given


def test_a_run_may_leave_slots_and_length_open(toy):
    engine = toy.engine.model_copy(update={"slots": "auto", "length": "auto"})
    prepared = prepare(toy.model_copy(update={"engine": engine}), None, Quiet())
    assert prepared.engine.slots == 64
    assert prepared.engine.length % engine.prefill_chunk == 0


def test_an_open_length_has_room_for_all_that_is_scored(toy):
    """A right answer may be longer than a prompt with its reply, and so may a text."""

    def length(given="auto", **changes):
        engine = toy.engine.model_copy(update={"length": given})
        return prepare(
            toy.model_copy(update={"engine": engine} | changes), None, Quiet()
        ).engine.length

    open_length = length()
    long = {"retention": RetentionSettings(passages=3, max_bytes=1000)}
    with_texts = length(**long)
    assert with_texts > open_length
    with pytest.raises(BadInputError, match=r"a paragraph of retention\.max_bytes"):
        length(open_length, **long)
    tasks = make_tasks(toy.tasks, toy.problems, {})
    tokenizer = load_model(toy.base_model).tokenizer
    tasks[1].reference = lambda problem: [
        {"role": "user", "content": problem.prompt},
        {"role": "assistant", "content": "word " * 300},
    ]
    engine = check_prompts(tasks, (Split.OPTIMISE,), tokenizer, AUTO)
    grown = check_references(tasks, Split.OPTIMISE, tokenizer, engine, may_grow=True)
    assert engine.length < 300 < grown.length and grown.length % 16 == 0
    assert check_references(tasks, Split.OPTIMISE, tokenizer, grown) == grown
    with pytest.raises(BadInputError, match=rf"set it to {grown.length} or more"):
        check_references(tasks, Split.OPTIMISE, tokenizer, engine)


def test_a_token_of_the_cache(tiny_config):
    cache = make_program(tiny_config).empty_cache(3, 32)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    assert size == 3 * 32 * cache_bytes(tiny_config, "float32")


def test_sizes_for_readers():
    texts = [size_text(x) for x in (0, 999, 1000, 8.75e6, 999_600, 5.9e9, 2.5e15)]
    assert texts == ["0 B", "999 B", "1 kB", "8.75 MB", "1 MB", "5.9 GB", "2,500 TB"]


def test_this_machine_has_memory():
    machine = this_machine()
    assert 10**8 < machine.host_bytes < 10**14
    assert machine.device_bytes is None or np.isfinite(machine.device_bytes)


class Quiet:
    """Hears nothing."""

    def phase(self, name):
        pass

    def note(self, text):
        pass
