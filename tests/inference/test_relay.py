"""The others make the calls of the first process in order; a death is said once."""

import os
import socket
import threading
import time

import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.inference import relay

SECRET = b"of this run"


class Meeting:
    """A leader and followers, each of these in a thread."""

    def __init__(self, count, functions):
        server = relay.listen()
        address = ("127.0.0.1", server.getsockname()[1])
        self.lost, self.said, self.done = [], {i: [] for i in range(count)}, {}
        self.ends = [None] * count
        self._functions, self._address = functions, address
        self.threads = [
            threading.Thread(target=self._follow, args=(i,), daemon=True)
            for i in range(count)
        ]
        for thread in self.threads:
            thread.start()
        found = relay.accept(server, SECRET, count)
        self.leader = relay.Leader(found, self.lost.append)

    def _follow(self, i):
        self.ends[i] = relay.connect([("127.0.0.1", 1), self._address], SECRET, i + 1)
        try:
            self.done[i] = relay.follow(
                self.ends[i], self._functions(i, self.ends[i]), self.said[i].append
            )
        except (BadInputError, ValueError) as err:
            self.done[i] = err

    def end(self, failed=False):
        self.leader.close(failed=failed)
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()


def test_followers_make_the_calls_in_order():
    made = {0: [], 1: []}

    def functions(i, end):
        def call(name):
            if name == "ready":
                return lambda: relay.say_ready(end)
            return lambda *given: made[i].append((name, given))

        return call

    meeting = Meeting(2, functions)
    leader, order = meeting.leader, []
    with leader.telling("ready"):
        leader.wait()

    def tell(part):
        for n in range(50):
            with leader.telling("run", part, n, np.arange(3)):
                order.append((part, n))

    both = [threading.Thread(target=tell, args=(part,)) for part in "ab"]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted(leader.indices) == [1, 2]
    leader.send(2, "own", "x")
    meeting.end()
    assert meeting.done == {0: True, 1: True} and not meeting.lost
    assert [given[:2] for _, given in made[0]] == order
    assert made[1][-1] == ("own", ("x",)) and len(made[1]) == len(made[0]) + 1


def test_a_failure_is_told_in_one_sentence():
    def functions(i, end):
        def wrong():
            raise BadInputError("the base model is not here.")

        def broken():
            raise ValueError("two\nlines")

        return {"wrong": wrong, "broken": broken}.__getitem__

    meeting = Meeting(1, functions)
    with pytest.raises(BadInputError, match=r"^process 1: the base model is not here"):
        with meeting.leader.telling("wrong"):
            meeting.leader.wait()
    meeting.end()
    meeting = Meeting(1, functions)
    with meeting.leader.telling("broken"):
        pass
    await_(lambda: meeting.lost)
    assert meeting.lost[0] == "process 1: two lines"
    assert isinstance(meeting.done[0], ValueError)
    meeting.end()


def test_a_death_is_told_to_all():
    meeting = Meeting(3, lambda i, end: lambda name: lambda: None)
    shut(meeting.ends[0])
    await_(lambda: meeting.lost and meeting.said[1] and meeting.said[2])
    for said in (meeting.lost, meeting.said[1][:1], meeting.said[2][:1]):
        (sentence,) = said
        assert sentence.startswith("process 1 of this run is gone")
        assert "--resume" in sentence
    with pytest.raises(RunError, match="process 1 of this run is gone"):
        with meeting.leader.telling("run"):
            pass
    assert len(meeting.lost) == 1


def test_the_death_of_the_first_process_is_noticed():
    meeting = Meeting(1, lambda i, end: lambda name: lambda: None)
    meeting.leader._closing = True  # it would be gone
    shut(meeting.leader._followers[1])
    await_(lambda: meeting.said[0])
    assert meeting.said[0][0].startswith("process 0 of this run is gone")


def test_a_failed_run_and_a_stranger(monkeypatch):
    meeting = Meeting(1, lambda i, end: lambda name: lambda: None)
    meeting.end(failed=True)
    assert meeting.done == {0: False} and not meeting.lost
    monkeypatch.setattr(relay, "_CONNECTED_S", 1.0)
    server = relay.listen()
    address = ("127.0.0.1", server.getsockname()[1])
    said = []

    def stranger():
        with pytest.raises(RunError, match=r"^distributed: process 0 does not answer"):
            relay.connect([address], b"another", 1)
        said.append(True)

    thread = threading.Thread(target=stranger)
    thread.start()
    with pytest.raises(RunError, match="1 processes did not connect to process 0 in 1"):
        relay.accept(server, SECRET, 1)
    thread.join(20)
    assert said


def shut(one):
    """As the kernel does with the connections of a process that it ends."""
    with socket.socket(fileno=os.dup(one.fileno())) as raw:
        raw.shutdown(socket.SHUT_RDWR)


def await_(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()
