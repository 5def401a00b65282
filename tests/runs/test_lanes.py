"""Several batches on their way: told as they arrive, recorded, resumed."""

import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
import remote_world

from cycleqd_jax.errors import RunError
from cycleqd_jax.runs.checkpoints import state_fingerprint


class InLanes(remote_world.LoggingEvaluator):
    """Serves `lanes` calls at once; `slow` ones wait until another has arrived."""

    def __init__(self, lanes, slow=(), broken=None):
        super().__init__()
        self.lanes = lanes
        self._slow, self._broken = slow, broken
        self._arrived = threading.Event()
        self.most, self._now, self._lock = 0, 0, threading.Lock()

    @property
    def lane(self):
        return self

    def evaluate(self, individuals, split, **more):
        first = next(iter(individuals))
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        if first in self._slow:
            assert self._arrived.wait(30)
        found = super().evaluate(individuals, split, **more)
        with self._lock:
            self._now -= 1
        if first == self._broken:
            raise RunError("the environment failed.")
        if first not in self._slow:
            self._arrived.set()
        return found


def rows(folder, kind="metrics"):
    parts = sorted((folder / kind).glob("batch-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def test_batches_are_told_as_they_arrive(tmp_path):
    evaluator = InLanes(2, slow=["child/1"])
    state = remote_world.run(tmp_path, evaluator, stop=14)
    assert evaluator.most == 2
    found = rows(tmp_path)
    assert [row["generation"] for row in found] == list(range(1, 15))
    asked = [row["asked"] for row in found]
    assert asked[:4] == [5, 6, 7, 8] and sorted(asked) == list(range(1, 15))
    slow = next(row for row in found if row["asked"] == 1)
    assert slow["staleness"] == slow["generation"] - 1 >= 4
    assert state.bank.next_id == 3 + 14
    # Results are those of the child of that name, whose genome the bank has.
    own = remote_world.LoggingEvaluator()
    names = {row["individual"] for row in rows(tmp_path, "results")}
    assert names == {f"child/{t}" for t in range(1, 15)}
    for name, genome in ((i, g) for i, g in state.bank.genomes.items() if i >= 3):
        child = f"child/{name - 2}"
        got = [
            r["score"] for r in rows(tmp_path, "results") if r["individual"] == child
        ]
        want = own.evaluate({child: genome}, "optimise").episodes
        assert got == [episode.score for episode in want]
        scores = np.reshape(got, (3, 4)).mean(axis=1)
        np.testing.assert_array_equal(state.bank.scores[name], scores)


def test_with_one_lane_nothing_is_stale_beyond_its_batch(tmp_path):
    remote_world.run(tmp_path, remote_world.LoggingEvaluator(), stop=6)
    found = rows(tmp_path)
    assert [row["asked"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert [row["staleness"] for row in found] == [0, 1, 2, 3, 0, 1]


def test_numbers_of_lost_batches_are_asked_again(tmp_path):
    """The first batch fails after the second was told: its numbers are not lost."""
    broken = InLanes(2, slow=["child/1"], broken="child/1")
    with pytest.raises(RunError, match="environment failed"):
        remote_world.run(tmp_path, broken, stop=12)
    told = {row["asked"] for row in rows(tmp_path)}
    assert told and not told & {1, 2, 3, 4}
    state = remote_world.run(tmp_path, InLanes(2), stop=12)
    found = rows(tmp_path)
    assert sorted(row["asked"] for row in found) == list(range(1, 13))
    assert [row["generation"] for row in found] == list(range(1, 13))
    assert state.next_generation == 13


def test_a_search_that_needs_its_order_has_one_lane(tmp_path):
    evaluator = InLanes(3)
    noise = {"mutation": "gaussian"}
    state = remote_world.run(tmp_path / "lanes", evaluator, **noise)
    assert evaluator.most == 1
    alone = remote_world.run(tmp_path / "one", InLanes(1), **noise)
    assert state_fingerprint(state) == state_fingerprint(alone)
