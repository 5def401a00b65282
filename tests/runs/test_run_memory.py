"""The memory of a run from shapes alone, and what is refused with which numbers."""

import jax
import numpy as np
import pytest

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.loading import load_expert, load_model
from cycleqd_jax.runs.memory import (
    Machine,
    check_run_memory,
    fitting_memory,
    peek_inputs,
    run_memory,
    this_machine,
)

CONFIGS = "experiments/configs/"
GB = 10**9
BIG = Machine(host_bytes=2000 * GB, device_bytes=None)


def memory_of(name, *settings):
    config = load_config(f"{CONFIGS}{name}.yaml", settings, RunConfig)
    return run_memory(config, peek_inputs(config))


@pytest.fixture
def toy(toy_settings, tmp_path):
    return RunConfig.model_validate(toy_settings | {"run_dir": str(tmp_path)})


def test_the_presets_have_the_numbers_of_the_design():
    paper = memory_of("paper")
    assert paper.parameters == 8_030_261_248
    assert paper.weights == 2 * 8_030_261_248
    assert paper.mode.mode == "materialised"
    assert paper.state.genome_bytes == pytest.approx(8.75e6, rel=0.001)
    assert paper.state.total_bytes == pytest.approx(5.9e9, rel=0.02)
    # K x min(out, in) columns of every matrix, in float32: U and V by hand.
    layer = 2 * 4096 * 8192 + 2 * 1024 * 5120 + 3 * 4096 * 18432
    ends = 2 * 4096 * (128256 + 4096)
    assert paper.basis_size == pytest.approx(3 * 4 * (32 * layer + ends), rel=0.001)
    low = memory_of("paper_lowrank")
    assert low.mode.mode == "factored"
    assert low.basis_size == pytest.approx(4.4e9, rel=0.02)
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


def test_the_plan_is_what_a_run_has_in_memory(toy):
    from cycleqd_jax.merging.basis import compute_basis
    from cycleqd_jax.models.llama.program import LlamaProgram

    plan = run_memory(toy, peek_inputs(toy))
    model = load_model(toy.base_model)
    experts = [load_expert(path, model) for path in toy.expert_paths]
    assert plan.weights == sum(w.nbytes for w in model.weights.values())
    basis = compute_basis(model.weights, experts)
    assert plan.basis_size == sum(leaf.nbytes for leaf in jax.tree.leaves(basis))
    cache = LlamaProgram(model.config).empty_cache(toy.engine.slots, toy.engine.length)
    assert plan.cache == sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    factors = [f for expert in experts for f in expert.factors.values()]
    assert plan.experts == sum(f.a.nbytes + f.b.nbytes for f in factors)


def test_what_does_not_fit_is_said_with_numbers():
    paper = memory_of("paper")
    assert paper.misfit(BIG) is None
    on_gpu = paper.misfit(Machine(2000 * GB, 141 * GB))
    assert "the basis 130 GB" in on_gpu and "the accelerator has 141 GB" in on_gpu
    assert "basis.rank" in on_gpu
    small = paper.misfit(Machine(64 * GB, None))
    assert "computing the basis needs 324 GB" in small and "has 64 GB" in small
    cache = memory_of("paper_lowrank", "engine.slots=2048")
    assert "engine.slots" in cache.misfit(Machine(2000 * GB, 141 * GB))
    assert memory_of("paper_lowrank").misfit(Machine(128 * GB, 141 * GB)) is None


def test_what_is_advised_helps():
    """Only what is part of the sum is to be changed, and what can save enough."""
    machine = Machine(128 * GB, 19 * GB)
    slots = "choose fewer engine.slots or a shorter engine.length and a lower basis"
    assert slots in memory_of("paper_lowrank").misfit(machine)
    smaller = "engine.slots=2", "engine.prefill_rows=2", "basis.rank=16"
    assert memory_of("paper_lowrank", *smaller).misfit(machine) is None
    # The experts are as large as before, whatever the rank.
    lowest = memory_of("paper_lowrank", *smaller).misfit(Machine(64 * GB, 19 * GB))
    assert "choose experts as LoRA adapters, or" in lowest
    # Two copies of the weights alone are more than this.
    for name in ("paper", "paper_lowrank"):
        small = memory_of(name).misfit(Machine(32 * GB, None))
        assert "choose a smaller base_model, or a machine with more" in small


def test_auto_takes_the_mode_that_there_is_room_for():
    settings = "engine.mode=auto", "engine.slots=8", "basis.rank=256"
    config = load_config(f"{CONFIGS}paper_lowrank.yaml", settings, RunConfig)
    inputs = peek_inputs(config)
    roomy, tight, tiny = (Machine(500 * GB, n * GB) for n in (80, 44, 16))
    materialised = fitting_memory(config, inputs, roomy)
    assert "28% of a pass's work" in materialised.mode.reason
    assert materialised.mode.mode == "materialised"
    assert materialised.misfit(tight) is not None
    factored = fitting_memory(config, inputs, tight)
    assert factored.mode.mode == "factored" and factored.misfit(tight) is None
    assert "materialised mode needs more memory" in factored.mode.reason
    assert fitting_memory(config, inputs, tiny).mode == materialised.mode


def test_absurd_settings_have_their_numbers_too():
    cores = memory_of("paper", "qd.mutation=svd_child")
    assert "archives and bank 17 TB" in cores.misfit(BIG)
    with pytest.raises(BadInputError, match="mode is factored"):
        memory_of("paper_lowrank", "qd.mutation=gaussian")


def test_a_run_that_does_not_fit_is_refused_before_it_loads(toy, monkeypatch):
    check_run_memory(toy)
    need = 10**6
    monkeypatch.setattr(
        "cycleqd_jax.runs.memory.this_machine", lambda: Machine(need, None)
    )
    with pytest.raises(BadInputError, match=r"the run needs .* has 1 MB; choose"):
        check_run_memory(toy)


def test_what_is_not_here_is_left_to_loading(toy, monkeypatch):
    monkeypatch.setattr(
        "cycleqd_jax.runs.memory.this_machine", lambda: Machine(1, None)
    )
    for base in ("meta-llama/Llama-3.2-1B", "nobody/nothing", "no/such/folder"):
        check_run_memory(toy.model_copy(update={"base_model": base}))


def test_this_machine_has_memory():
    machine = this_machine()
    assert 10**8 < machine.host_bytes < 10**14
    assert machine.device_bytes is None or np.isfinite(machine.device_bytes)
