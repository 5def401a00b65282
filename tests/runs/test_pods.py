"""Two processes on this host make one mesh, and one run."""

import json
import pathlib
import signal
import time

import numpy as np
import pod
import pytest
import run_contents
import toy_world

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.inference.relay import ALONE
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.reports import console
from cycleqd_jax.runs import pods, reading
from cycleqd_jax.runs.mirror import fetched

SOON = 60  # seconds in which a process must notice that another is dead


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a model whose heads two devices can share, and a config."""
    folder = tmp_path_factory.mktemp("pod")
    settings = toy_world.make_world(folder, 2, kv_heads=2)
    settings["problems"] = {"optimise": 2, "validate": 2, "test": 2, "train": 2}
    settings["qd"] = {"num_generations": 6, "children_per_batch": 2, "bins": 5}
    toy_world.write_config(folder / "toy.yaml", settings)
    return folder


def start(world, folder, mesh, *arguments, processes=1, devices=1):
    """A run in a folder on a mesh, given as YAML."""
    given = ["--config", "toy.yaml", f"run_dir={folder}", f"engine.mesh={mesh}"]
    given += arguments
    return pod.start(world, *given, processes=processes, devices=devices)


def finish(processes):
    ends = pod.finish(processes)
    assert [end[0] for end in ends] == [0] * len(ends), ends
    return ends


def kill_at(processes, words, index):
    """Kills a process when process 0 says some words; how long the others took."""
    for line in processes[0].stdout:
        if words in line:
            break
    processes[index].send_signal(signal.SIGKILL)
    began = time.monotonic()
    ends = pod.finish(processes)
    return ends, time.monotonic() - began


def promised(run):
    """The files that are the same on every mesh: those that show no settings."""
    found = run_contents.contents(run)
    for name in ("config.yaml", "SHA256SUMS", "report/report.html"):
        del found[name]
    return found


@pytest.fixture(scope="module")
def on_one_device(world):
    finish(start(world, "one", "{}"))
    return promised(world / "one")


@pytest.mark.slow
def test_two_processes_are_one_run_and_resume_after_a_death(world, on_one_device):
    both = {"folder": "both", "mesh": "{data: 2}", "processes": 2}
    ends, seconds = kill_at(start(world, **both), "child 2/", 1)
    assert ends[0][0] == 1 and seconds < SOON
    said = [line for line in ends[0][2].splitlines() if line.startswith("Failed: ")]
    assert len(said) == 1, ends[0][2]
    assert said[0].startswith("Failed: process 1 of this run is gone")
    assert "--resume" in said[0]
    ends = finish(again(world, both))
    assert "process 1 of 2 follows" in ends[1][1] and "child" not in ends[1][1]
    assert not run_contents.differences(promised(world / "both"), on_one_device)


def again(world, given):
    rest = {n: value for n, value in given.items() if n not in ("folder", "mesh")}
    return start(world, given["folder"], given["mesh"], "--resume", **rest)


@pytest.mark.slow
def test_a_run_goes_on_elsewhere(world, on_one_device, tmp_path, monkeypatch):
    """Begun on eight devices, resumed on four, finished on one: the same bytes.

    Each time the machine has nothing but the bucket.
    """
    bucket = f"file://{tmp_path}/bucket/run"
    given = ("--resume", f"mirror={bucket}")
    for devices, words in ((8, "child 2/"), (4, "child 4/")):
        place, mesh = f"on{devices}", f"{{data: {devices}}}"
        running = start(world, place, mesh, *given, devices=devices)
        ends, _ = kill_at(running, words, 0)
        assert ends[0][0] == -signal.SIGKILL
    (end,) = finish(start(world, "last", "{}", *given))
    assert f"the run was fetched from {bucket}: " in end[1]
    assert "child 6/6" in end[1] and "child 2/6" not in end[1]
    assert not run_contents.differences(promised(world / "last"), on_one_device)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = run_contents.contents(fetched(bucket))
    assert not run_contents.differences(copy, run_contents.contents(world / "last"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, settings",
    [
        ("raced", ["engine.mode=factored", "racing.rungs=1", "fitness.smooth=true"]),
        ("materialised", ["engine.mode=materialised"]),
        # With this seed an archive keeps a child with noise.
        ("noisy", ["engine.mode=materialised", "qd.mutation=gaussian", "seed=2"]),
    ],
)
def test_two_processes_share_every_matrix(world, name, settings):
    """Sums go from host to host; of two terms they are those of one process."""
    runs = []
    for processes in (1, 2):
        folder, mesh = f"{name}{processes}", "{tensor: 2}"
        devices = {"processes": processes, "devices": 2 // processes}
        given = [*settings, "qd.num_generations=2"]
        finish(start(world, folder, mesh, *given, **devices))
        runs.append(promised(world / folder))
    assert not run_contents.differences(*runs)
    children = reading.parts(world / folder, "metrics")
    complete = [row["complete"] for row in reading.read_rows(children, ["complete"])]
    assert sorted(complete) == [name != "raced", True]
    assert ("logprobs/batch-000001.parquet" in runs[0]) == (name == "raced")
    assert ("checkpoints/2/bank.noise/.zarray" in runs[0]) == (name == "noisy")


@pytest.mark.slow
def test_the_death_of_process_0_ends_the_others(world):
    first = {"folder": "first", "mesh": "{data: 2}", "processes": 2}
    ends, seconds = kill_at(start(world, **first), "child 2/", 0)
    assert ends[1][0] not in (0, None) and seconds < SOON
    assert "process 0 of this run is gone" in ends[1][2], ends[1][2]
    finish(again(world, first))


@pytest.mark.slow
def test_a_host_with_another_model_is_refused_before_work(world, tmp_path):
    """The second process was started in a folder with another base model."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        toy_world.make_world(tmp_path / name, 2, kv_heads=2)
    file = tmp_path / "there" / "base" / safetensors.WEIGHTS
    arrays = dict(safetensors.open_file(file))
    name = max(arrays)
    safetensors.write_file(file, arrays | {name: np.asarray(arrays[name]) * 1.5})
    # Relative paths begin where each process was started.
    text = (world / "toy.yaml").read_text().replace(f"{world}/", "")
    for name in ("here", "there"):
        (tmp_path / name / "toy.yaml").write_text(text)
    places = [tmp_path / "here", tmp_path / "there"]
    given = ("--config", "toy.yaml", "engine.mesh={data: 2}")
    processes = pod.start(places, *given, processes=2)
    ends = pod.finish(processes)
    assert [end[0] for end in ends] == [2, 2], ends
    assert "Bad input: process 1: base model on" in ends[0][2]
    assert "is another than on the host of process 0" in ends[0][2]
    assert "child" not in ends[0][1]


def test_each_process_reads_only_what_it_holds(world):
    script = str(pathlib.Path(pod.__file__).with_name("pod_reads.py"))
    ends = pod.finish(pod.start(world, script, str(world / "base"), processes=2))
    assert [end[0] for end in ends] == [0, 0], ends
    facts = [json.loads(end[1].splitlines()[-1]) for end in ends]
    assert [one["follows"] for one in facts] == [False, True]
    for one in facts:
        matrices = {n: size for n, size in one["sizes"].items() if "norm" not in n}
        rows = [n for n in matrices if "o_proj" not in n and "down" not in n]
        for name in rows:  # divided by rows; by columns, whole rows are read
            assert 2 * one["read"][name] == matrices[name], name
        assert one["everywhere"] == list(range(6))
        assert "leaves out whole hosts" in one["refused"]
    stored = safetensors.open_folder(world / "base")
    total = sum(float(np.sum(stored[name], dtype=np.float64)) for name in stored)
    assert facts[0]["sum"] == facts[1]["sum"] == pytest.approx(total, abs=0.5)


@pytest.fixture
def settings(world):
    return lambda *more: load_config(world / "toy.yaml", list(more), RunConfig)


def test_the_switch(settings):
    for text, value in (("on", "on"), ("off", "off"), ("auto", "auto"), ("'on'", "on")):
        assert settings(f"distributed={text}").distributed == value
    with pytest.raises(BadInputError, match=r"distributed is on; expected auto or off"):
        settings("distributed=on", "evaluator=ray")
    there = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1"}
    wanted = pods._is_wanted
    assert wanted(settings(), there) and not wanted(settings(), {})
    assert not wanted(settings("distributed=off"), there)
    assert not wanted(settings("evaluator=ray"), there)


@pytest.mark.parametrize(
    "environment, said",
    [
        ({}, r"^distributed: the other processes .* not known .*JAX_NUM_PROCESSES"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two'; expected a whole"),
    ],
)
def test_processes_that_are_not_known_are_one_sentence(
    settings, monkeypatch, environment, said
):
    def initialize(*given, **more):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    with pytest.raises(BadInputError, match=said):
        with pods.joined(settings("distributed=on"), environment, console.end_at_once):
            pytest.fail("it began")


def test_a_coordinator_that_does_not_answer_is_one_sentence(settings, monkeypatch):
    monkeypatch.setattr(pods, "_COORDINATOR_S", 0.0)
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    there = dict(zip(names, ("127.0.0.1:1", "2", "1"), strict=True))
    said = r"^distributed: nothing answers at JAX_COORDINATOR_ADDRESS=127.0.0.1:1 "
    with pytest.raises(BadInputError, match=said):
        with pods.joined(settings(), there, console.end_at_once):
            pytest.fail("it began")


def test_a_tpu_without_neighbours_is_one_process(settings, monkeypatch):
    monkeypatch.setattr(
        "jax.distributed.initialize", lambda *given, **more: int("no cluster")
    )
    monkeypatch.setattr(pods, "_is_wanted", lambda *given: True)
    with pods.joined(settings(), {}, console.end_at_once) as alone:
        assert not alone.follows and alone.relay is ALONE
