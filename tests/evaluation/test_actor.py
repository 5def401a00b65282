"""An evaluator in a process of its own: it answers, fails in words, and is not left."""

import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import remote_world

from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.evaluation.actor import (
    EvaluatorActor,
    LostError,
    as_request,
    remove_stale_lock,
    value_of,
)
from cycleqd_jax.tasks.base import Split

SUPPORT = pathlib.Path(remote_world.__file__).parent


def call(actor, method, *args, **kwargs):
    return value_of(actor.call(as_request(method, *args, **kwargs)))


def gone(pid):
    """True once a process has ended, which may take it a while."""
    for _ in range(300):
        try:
            state = pathlib.Path(f"/proc/{pid}/stat").read_text().split(")")[-1]
        except OSError:
            return True
        if state.split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def test_it_answers_fails_in_words_and_says_when_it_is_lost(tmp_path):
    basis = remote_world.make_basis()
    genome = remote_world.expert_genome(basis, 0)
    log, closed = tmp_path / "log", tmp_path / "closed"
    source = remote_world.source(log=str(log), closed=str(closed))
    actor = EvaluatorActor()
    assert call(actor, "open", source) == remote_world.FACTS
    got = call(actor, "evaluate", {"one": genome}, Split.OPTIMISE)
    want = remote_world.LoggingEvaluator().evaluate({"one": genome}, Split.OPTIMISE)
    assert got == want
    with pytest.raises(BadInputError, match=r"^it is wrong\.$"):
        call(actor, "fail", "bad")
    with pytest.raises(RunError, match="KeyError"):
        call(actor, "fail", "other")
    assert call(actor, "evaluate", {"one": genome}, Split.OPTIMISE) == want
    pid, parent, _ = log.read_text().splitlines()[0].split()
    assert int(parent) == os.getpid() != int(pid)
    os.kill(int(pid), signal.SIGKILL)
    with pytest.raises(LostError, match="ended with code -9"):
        call(actor, "evaluate", {"one": genome}, Split.OPTIMISE)
    assert not closed.exists()


def test_it_is_closed_in_order(tmp_path):
    closed = tmp_path / "closed"
    actor = EvaluatorActor()
    call(actor, "open", remote_world.source(closed=str(closed)))
    actor.close()
    assert closed.exists()


OWNER = """
import sys
import remote_world
from cycleqd_jax.evaluation.actor import EvaluatorActor, as_request
actor = EvaluatorActor()
source = remote_world.source(log=sys.argv[1], seconds=1000)
actor.call(as_request("open", source))
actor.call(as_request("evaluate", {"one": None}, "optimise"))
"""


def test_a_busy_process_dies_with_its_actor(tmp_path):
    log = tmp_path / "log"
    path = os.pathsep.join([str(SUPPORT), *sys.path])
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(log)], env=os.environ | {"PYTHONPATH": path}
    )
    try:
        while not log.exists():
            assert owner.poll() is None
            time.sleep(0.1)
    finally:
        owner.kill()
        owner.wait()
    assert gone(int(log.read_text().split()[0]))


def test_a_lock_that_nobody_holds_is_removed(tmp_path):
    lock = tmp_path / "lock"
    remove_stale_lock(lock)  # there is none
    lock.touch()
    with open(lock) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remove_stale_lock(lock)
        assert lock.exists()
    remove_stale_lock(lock)
    assert not lock.exists()
