"""The evaluator on a cluster: it gives what a local one gives, whoever is killed."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import ray_cluster
import remote_world

from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.evaluation.racing import RacingEvaluator
from cycleqd_jax.evaluation.ray_settings import RaySettings
from cycleqd_jax.evaluation.rungs import RacingSettings
from cycleqd_jax.merging.genome import expert_genome
from cycleqd_jax.merging.individuals import TrainedExpert
from cycleqd_jax.runs.checkpoints import state_fingerprint
from cycleqd_jax.tasks.base import Split

ray_cluster.needs_ray()
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def head():
    with ray_cluster.cluster(2) as head:
        yield head


def until(condition):
    """Waits, however busy the machine is, but not for ever."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def one():
    return {"one": expert_genome(remote_world.make_basis(), 0)}


def test_an_evaluator_with_other_weights_is_refused_before_work(head):
    for weights, said in (
        ("wrong", "the evaluator on here has other weights"),
        ("missing", "no evaluator can work on here"),
    ):
        with remote_world.ray_evaluator(head.address, weights=weights) as evaluator:
            with pytest.raises(BadInputError, match=said):
                evaluator.compile()


@slow
def test_evaluators_that_end_while_they_start_end_the_run(head, monkeypatch):
    monkeypatch.setattr(
        remote_world, "source", lambda **_: remote_world.Source("os:abort", {})
    )
    with remote_world.ray_evaluator(head.address) as evaluator:
        with pytest.raises(RunError, match="3 evaluators ended while they started"):
            evaluator.compile()


def test_hosts_that_lack_what_an_evaluator_takes_are_named(head):
    settings = {"resources": {"CPU": 1, "TPU": 4}}
    with pytest.raises(BadInputError, match=r"no host .* CPU 1, TPU 4; there are 1"):
        with remote_world.ray_evaluator(head.address, settings=settings):
            pass


@slow
def test_evaluators_join_and_leave_with_their_hosts(head, tmp_path):
    settings = {"evaluators": "auto", "resources": {"CPU": 2}}
    notes, log = [], tmp_path / "log"
    with remote_world.ray_evaluator(
        head.address, notes.append, False, settings, log=str(log)
    ) as evaluator:
        evaluator.compile()
        assert evaluator.lanes == 1
        host = ray_cluster.Host(tmp_path, 2, head.address)
        try:
            until(lambda: evaluator.lanes == 2)
            evaluator.evaluate(one() | {"two": one()["one"]}, Split.OPTIMISE)
            assert len({line.split()[0] for line in log.read_text().splitlines()}) == 2
        finally:
            host.leave()
        # Whoever had nothing to do is noticed when it gets work.
        found = evaluator.evaluate(one() | {"two": one()["one"]}, Split.OPTIMISE)
        assert len(found.episodes) == 24
        assert evaluator.lanes == 1
        assert len(notes) == 1 and "was lost" in notes[0]


def test_settings():
    assert RaySettings(resources={"GPU": 1}).resources == {"GPU": 1.0}
    for wrong in ({}, {"CPU": 0}):
        with pytest.raises(ValueError, match="resources"):
            RaySettings(resources=wrong)


def test_a_driver_that_is_killed_and_resumed_ends_the_same(head, tmp_path):
    wanted = remote_world.run(tmp_path / "local", remote_world.LoggingEvaluator())
    command = [sys.executable, str(pathlib.Path(remote_world.__file__))]
    arguments = [str(tmp_path / "ray"), head.address, "12"]
    environment = os.environ | ray_cluster.ENVIRONMENT
    driver = subprocess.Popen([*command, *arguments], env=environment)
    try:
        kept = tmp_path / "ray" / "checkpoints" / "4"
        until(lambda: kept.exists() or driver.poll() is not None)
        assert driver.poll() is None
    finally:
        driver.kill()
        driver.wait()
    with remote_world.ray_evaluator(head.address) as evaluator:
        state = remote_world.run(tmp_path / "ray", evaluator)
    assert state_fingerprint(state) == state_fingerprint(wanted)
    for kind in ("results", "metrics", "costs"):
        parts = sorted((tmp_path / "local" / kind).glob("*.parquet"))
        assert len(parts) == 3
        for part in parts:
            other = tmp_path / "ray" / kind / part.name
            assert part.read_bytes() == other.read_bytes()


# A process has one connection to a cluster: what follows shares it.


@pytest.fixture(scope="module")
def world(head, tmp_path_factory):
    """Two evaluators, what they note, and the log of what they evaluate."""
    log, notes = tmp_path_factory.mktemp("log") / "log", []
    log.touch()
    with remote_world.ray_evaluator(
        head.address, notes.append, log=str(log), seconds=0.3
    ) as evaluator:
        evaluator.compile()
        yield evaluator, notes, log


@pytest.fixture(scope="module")
def individuals():
    basis = remote_world.make_basis()
    genomes = jax.device_get([expert_genome(basis, k) for k in range(3)])
    found = {f"i{k}": genome for k, genome in enumerate(genomes)}
    return found | {"trained": TrainedExpert("a"), "again": genomes[1]}


def test_it_gives_what_a_local_one_gives(world, individuals):
    evaluator, local = world[0], remote_world.LoggingEvaluator()
    heard = []
    some = {"a": ["a/optimise/2", "a/optimise/0"], "c": ["c/optimise/1"]}
    for problems in (None, some):
        more = {"problems": problems}
        for method in ("evaluate", "score"):
            for chosen in (individuals, {"one": individuals["i0"]}):
                got = getattr(evaluator, method)(
                    chosen, Split.OPTIMISE, progress=lambda *n: heard.append(n), **more
                )
                want = getattr(local, method)(chosen, Split.OPTIMISE, **more)
                assert got[0] == want[0]
                assert got.cost[:2] == want.cost[:2]
                assert heard[-1] == (len(want[0]), len(want[0]))
        got, want = (
            one.evaluate_and_score(individuals, Split.OPTIMISE, **more)
            for one in (evaluator, local)
        )
        assert [part[0] for part in got] == [part[0] for part in want]
        assert [part.cost[:2] for part in got] == [part.cost[:2] for part in want]
    texts = ["x", "y"]
    assert (
        evaluator.score_texts(individuals, texts).scores
        == local.score_texts(individuals, texts).scores
    )
    genomes = [individuals[f"i{k}"] for k in range(3)]
    weights = np.arange(9, dtype=np.float32).reshape(3, 3)
    problems = [{"a": [f"a/train/{k}"], "b": ["b/train/0"]} for k in range(3)]
    got, want = (
        one.gradient(genomes, weights, Split.TRAIN, problems=problems)
        for one in (evaluator, local)
    )
    np.testing.assert_array_equal(got.losses, want.losses)
    np.testing.assert_array_equal(got.gradients, want.gradients)
    assert got.cost[:2] == want.cost[:2]
    races = [
        RacingEvaluator(one, RacingSettings(rungs=2)).evaluate(
            {n: individuals[n] for n in ("i0", "i1", "i2", "again")}, Split.OPTIMISE
        )
        for one in (evaluator, local)
    ]
    assert races[0].episodes == races[1].episodes
    with pytest.raises(BadInputError, match="is not a problem of a"):
        evaluator.evaluate(individuals, Split.OPTIMISE, problems={"a": ["none"]})


def busy(log, since):
    """Process and actor of the first evaluation that is logged after `since` bytes."""
    until(lambda: "\n" in log.read_text()[since:])
    pid, actor, _ = log.read_text()[since:].splitlines()[0].split()
    return int(pid), int(actor)


@pytest.mark.parametrize("who", ["actor", pytest.param("process", marks=slow)])
def test_killed_amid_a_batch_nothing_is_lost_or_counted_twice(who, world, individuals):
    evaluator, notes, log = world
    since, noted = len(log.read_text()), len(notes)
    victim = []

    def kill():
        pid, actor = busy(log, since)
        victim.append(pid if who == "process" else actor)
        os.kill(victim[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    got = evaluator.evaluate(individuals, Split.OPTIMISE)
    killer.join()
    assert (
        got.episodes
        == remote_world.LoggingEvaluator()
        .evaluate(individuals, Split.OPTIMISE)
        .episodes
    )
    assert len(notes) == noted + 1 and "was lost" in notes[-1]
    seen = [line.split()[2] for line in log.read_text()[since:].splitlines()]
    assert set(seen) == set(individuals) and len(seen) > len(individuals)


@slow
def test_a_batch_that_kills_whoever_takes_it_ends_the_run(world, individuals):
    evaluator, _, log = world
    since, over = len(log.read_text()), threading.Event()

    def kill():
        killed = set()
        while not over.is_set():
            for line in log.read_text()[since:].splitlines():
                pid = int(line.split()[0])
                if pid not in killed:
                    killed.add(pid)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(RunError, match="3 evaluators were lost"):
            evaluator.evaluate({"i0": individuals["i0"]}, Split.OPTIMISE)
    finally:
        over.set()
        killer.join()
