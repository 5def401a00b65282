"""Programs as they are compiled: nothing is gathered, little is moved, and it is said.

Read on eight simulated CPU devices, and for a TPU topology where its compiler is.
"""

import dataclasses
import importlib.util
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest
from eight_devices import on_eight_devices

from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.merging import blocks, device_svd
from cycleqd_jax.models.llama.config import LlamaConfig
from experiments import scale_check
from experiments.scale import chips, programs
from experiments.scale.abstract import make_run
from experiments.scale.hlo import Program
from experiments.scale.measure import Figures, Row, continued, measure
from experiments.scale.programs import Job

HERE = pathlib.Path(__file__).parent
MB = 10**6
LIMITS = chips.TPUS["v5e"]


@pytest.fixture(scope="module")
def compiled():
    return on_eight_devices(HERE / "scale_programs.py", json.dumps({"topology": None}))


def test_no_program_gathers_a_matrix(compiled):
    """The largest array that any program gathers is smaller than the least matrix."""
    assert len(compiled["programs"]) == 2 * 2 + 2 + 2
    for name, program in compiled["programs"].items():
        assert program["gathered"] < compiled["least_matrix"], name


def test_a_gathered_weight_would_be_seen(compiled):
    assert compiled["wrong"]["gathered"] >= compiled["least_matrix"]


def test_a_step_moves_little_more_than_it_must(compiled):
    for name, program in compiled["programs"].items():
        if program["needed"]:
            assert program["moved"] <= 1.5 * program["needed"], name


def test_the_plan_of_a_dry_run_is_what_the_compiler_says(compiled):
    assert len(compiled["plans"]) == 4
    for name, (planned, needed) in compiled["plans"].items():
        assert planned == pytest.approx(needed, rel=0.15), name


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs pip install libtpu"
)
@pytest.mark.parametrize("topology", ["v5e:2x4", "v5p:2x2x2"])
def test_no_program_gathers_a_matrix_on_a_tpu(topology):
    given = json.dumps({"topology": topology})
    found = on_eight_devices(HERE / "scale_programs.py", given)
    for name, program in found["programs"].items():
        assert program["gathered"] < found["least_matrix"], name
        if program["needed"]:
            assert program["moved"] <= 1.5 * program["needed"], name
            # XLA's figure is that, and moves within the chip.
            parts = program["parts"]
            assert sum(parts.values()) == pytest.approx(program["by_xla"], rel=0.15)
            assert parts["main"] < 0.5 * program["by_xla"], name


def read(function, *shapes):
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return Program(jax.jit(function).lower(*given).compile().as_text())


def test_bytes_of_a_product():
    traffic = read(jnp.matmul, (256, 512), (512, 128)).traffic()
    want = 4 * (256 * 512 + 512 * 128 + 256 * 128)
    assert traffic.outside == pytest.approx(want, rel=0.01) and traffic.in_loops == 0


def test_only_the_rows_that_are_taken_count():
    def rows(table):
        return table[jnp.array([3, 70, 2])] * 2

    moved = read(rows, (1000, 256)).traffic().outside
    assert 3 * 256 * 4 < moved < 20 * 256 * 4


def test_the_body_of_a_loop_counts_once():
    def loop(x, y):
        return jax.lax.fori_loop(0, x.shape[0], lambda i, y: jnp.sin(x @ y), y)

    traffic = read(loop, (128, 128), (128, 128)).traffic()
    each = 4 * 128 * 128
    assert 3 * each <= traffic.in_loops <= 6 * each


def test_asynchronous_moves_count_in_main_memory_only():
    text = """
ENTRY %main (p: bf16[64,128]) -> bf16[64,128] {
  %p = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %copy-start = (bf16[64,128]{1,0:T(8,128)(2,1)S(1)}, bf16[64,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%p)
  %copy-done = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %sine = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} sine(%copy-done)
  %all-gather-start = (bf16[64,128]{1,0:S(1)}, bf16[512,128]{1,0}) all-gather-start(%sine)
  %all-gather-done = bf16[512,128]{1,0} all-gather-done(%all-gather-start)
  ROOT %negate = bf16[64,128]{1,0:T(8,128)(2,1)} negate(%sine)
}
"""  # noqa: E501
    program, size = Program(text), 64 * 128 * 2
    assert program.traffic().outside == size + 8 * size + size
    # A copy counts once more where it is waited for; the gathered array is in main.
    assert program.xla_traffic() == (size + 8 * size + size, size, 9 * size, 5 * size)
    (gathered,) = program.collectives()
    assert gathered == ("all-gather", 8 * size, False)


def figures(number):
    kinds = {"all-reduce": {"count": number, "bytes": 10 * number, "largest": 10}}
    parts = {"main": float(number), "copied": 2.0 * number}
    values = [float(number + i) for i in range(6)]
    return Figures(*values, xla_parts=parts, collectives=kinds)


def test_more_layers_are_on_the_line_through_few():
    limits, job = chips.TPUS["v5e"], Job("decode", (), held=7)
    rows = [Row(job, figures(n), limits) for n in (4, 6)]
    row = continued(job, rows, (2, 3), 32)
    assert row.figures == figures(64)
    assert row.total == row.figures.peak + 7
    refused = rows[0]._replace(figures=None, refusal="too large")
    assert continued(job, [rows[0], refused], (2, 3), 32).refusal == "too large"


def abstract(host_below, rank=4):
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
    )
    run = make_run(
        config,
        "float32",
        EngineSettings(),
        tuple(jax.devices()[:1]),
        individuals=2,
        rank=rank,
    )
    basis = run.basis.model_copy(update={"host_below": host_below})
    return dataclasses.replace(run, basis=basis)


@pytest.mark.parametrize("rank", [2, "full"])
def test_the_factorisation_covers_every_task_vector(rank, monkeypatch):
    """Batches as they come, of two matrices of 32 x 32 floats."""
    monkeypatch.setattr(blocks, "_BATCH_BYTES", 2 * 4 * 32 * 32)
    monkeypatch.setattr(device_svd, "OVERSAMPLING", 1)
    jobs = list(programs.jobs(abstract(16, rank), ("factorise",), ()))
    called = {
        job.name.removeprefix("factorise, "): [
            (part.lower().in_avals[0][0].shape, part.calls) for part in job.parts
        ]
        for job in jobs
    }
    layers, experts, parts = 3, 3, 2 if rank == "full" else 1
    want = {
        "96 x 32": [((1, 96, 32), experts)] * parts,
        "32 x 32": [((2, 32, 32), layers * 2 * experts // 2)] * parts,
        "16 x 32": [((4, 16, 32), -(-layers * 2 * experts // 4))] * parts,
        "48 x 32": [((1, 48, 32), layers * 2 * experts)] * parts,
        "32 x 48": [((1, 32, 48), layers * experts)] * parts,
    }
    if rank == "full":  # one for each task vector
        wide = experts * (1 + layers * (2 + 2 + 1))
        want["eigenvectors of 32 x 32"] = [((32, 32), wide)]
        want["eigenvectors of 16 x 16"] = [((16, 16), layers * 2 * experts)]
    assert called == want
    (job,) = [job for job in jobs if job.name == "factorise, 32 x 32"]
    matrix = 4 * 32 * 32
    directions = 2 * 3 * 2 * 4 * 32 * (32 if rank == "full" else rank)
    beside = 2 * (matrix + matrix) + 3 * directions + (parts - 1) * 4 * matrix
    assert job.held == beside
    row = measure(job, LIMITS)
    assert row.fits and row.total == row.figures.peak + job.held
    assert row.figures.flops > 0


def test_small_matrices_are_factorised_on_the_host():
    assert list(programs.jobs(abstract(64), ("factorise",), ())) == []


SMALL = (
    "--model smollm2-135m --topology local --mesh 1x1 --dtype float32 --slots 4 "
    "--length 32 --prefill-rows 2 --prefill-chunk 16 --decode-steps 4 --rank 2"
).split()


def test_the_command_says_what_fits(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(chips, "_local", lambda: local(10**12))
    monkeypatch.setattr(scale_check, "_QUICK_LAYERS", (1, 2))
    file = tmp_path / "scale.json"
    wanted = [*SMALL, "--quick", "--programs", "decode", "--json", str(file)]
    assert scale_check.main(wanted) == 0
    said, data = capsys.readouterr().out, json.loads(file.read_text())
    assert "decode, factored" in said and "decode, materialised" in said
    materialised = data["programs"][1]
    assert data["layers"] == 30 and data["layers_compiled"] == [1, 2]
    weights = 4 * 134_515_008
    cache = 2 * 30 * 4 * 32 * 3 * 64 * 4
    assert materialised["argument_bytes"] == pytest.approx(weights + cache, rel=0.001)
    assert materialised["held_bytes"] > weights
    for one in data["programs"]:
        assert one["fits"] and one["peak_bytes"] > weights + cache
        assert one["flops"] > 2 * 4 * 134_515_008
        assert one["bytes_accessed"] > weights and one["seconds_at_roofline"] > 0
        assert one["collectives"] == {}


def test_an_interrupted_command_keeps_what_it_compiled(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(chips, "_local", lambda: local(10**12))
    monkeypatch.setattr(scale_check, "_QUICK_LAYERS", (1, 2))
    done = []

    def interrupted(job, limits):
        if len(done) == 2:  # layers of the first program
            raise KeyboardInterrupt
        done.append(Row(job, figures(1), limits))
        return done[-1]

    monkeypatch.setattr(scale_check, "measure", interrupted)
    file = tmp_path / "scale.json"
    wanted = [*SMALL, "--quick", "--programs", "decode", "--json", str(file)]
    assert scale_check.main(wanted) == 130
    assert "has the finished programs" in capfd.readouterr().err
    (kept,) = json.loads(file.read_text())["programs"]
    assert kept["name"] == "decode, factored"


def test_what_does_not_fit_is_said_and_fails(capsys, monkeypatch):
    monkeypatch.setattr(chips, "_local", lambda: local(600 * MB))
    monkeypatch.setattr(scale_check, "_QUICK_LAYERS", (1, 2))
    wanted = [*SMALL, "--quick", "--programs", "decode", "--modes", "materialised"]
    assert scale_check.main(wanted) == 1
    said = capsys.readouterr().out
    assert "does not fit" in said and "but a device has 600 MB" in said


def local(memory):
    limits = chips.Limits(memory, 1e10, 1e11, 1e10)
    return chips.Target("local", jax.devices()[:1], limits)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--model", "gpt-2"], "expected llama-3-8b"),
        (["--topology", "v9:2x4"], "expected local, or VERSION:SIZES"),
        (["--topology", "v5e:two"], "expected local, or VERSION:SIZES"),
        (["--mesh", "8"], "expected DATAxTENSOR"),
        (["--mesh", "4x4"], "needs 16 devices, but there are 1"),
        (["--programs", "decode,fly"], "'fly' is none of factorise, prefill"),
        (["--prefill-chunk", "7"], "prefill_chunk is 7"),
        (["--rank", "0"], "--rank is 0"),
        (["--json", "no/such/folder/x.json"], "in a folder that is there"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(changed, said, capsys, monkeypatch):
    monkeypatch.setattr(chips, "_local", lambda: local(10**12))
    assert scale_check.main([*SMALL, *changed]) == 2
    assert said in capsys.readouterr().err


def test_without_the_compiler_for_tpus_it_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    assert scale_check.main([*SMALL, "--topology", "v5e:2x4"]) == 2
    assert "pip install -e '.[tpu]'" in capsys.readouterr().err
