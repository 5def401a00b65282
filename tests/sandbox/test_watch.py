"""Time as an idle machine would count it, on a clock and processes that are made up."""

import types

import pytest

from cycleqd_jax.sandbox import _watch
from cycleqd_jax.sandbox._watch import PARENT, STATE, Clock, Processes

# It looks at this machine first, whose processes need more than any program.
LIMITS = {"cpu_s": 1e12, "memory_bytes": 2**60, "folders": (), "entries": 0}


def counted(
    monkeypatch,
    *,
    passed_s: float,
    used_s: float,
    running: bool,
    waiting: bool = False,
    looks: int = 1,
) -> float:
    """Seconds that count when these passed between two looks, some times."""
    now = [100.0]
    monkeypatch.setattr(_watch, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    clock = Clock(LIMITS)

    def poll():
        clock.processes.cpu_s += used_s

    monkeypatch.setattr(clock.processes, "poll", poll)
    monkeypatch.setattr(clock.processes, "running", lambda: running)
    monkeypatch.setattr(clock.processes, "waiting", lambda: waiting)
    for _ in range(looks):
        now[0] += passed_s
        assert clock.tick() is None
    return clock.elapsed_s


@pytest.mark.parametrize(
    ("passed_s", "used_s", "running", "expected"),
    [
        (0.2, 0.0, False, 0.2),  # it sleeps
        (0.2, 0.15, True, 0.15),  # it shares a processor
        (0.2, 0.0, True, 0.02),  # it gets none: a tenth
        (0.2, 0.4, True, 0.2),  # it has two processors
        (9.0, 0.0, False, 0.4),  # process 1 itself had to wait
    ],
)
def test_time_of_an_idle_machine(monkeypatch, passed_s, used_s, running, expected):
    seconds = counted(monkeypatch, passed_s=passed_s, used_s=used_s, running=running)
    assert seconds == pytest.approx(expected)


def test_who_waits_in_the_kernel_for_long_does_not_wait_for_a_disk(monkeypatch):
    given = {"passed_s": 0.2, "used_s": 0.0, "running": False, "waiting": True}
    assert counted(monkeypatch, **given, looks=10) == pytest.approx(0.2)
    # After 10 s that were left out, and what counted in them, all counts.
    expected = 200.0 - _watch.MOST_WAIT_S
    assert counted(monkeypatch, **given, looks=1000) == pytest.approx(expected, abs=0.2)


def fields(state: bytes, parent: bytes) -> list[bytes]:
    row = [b"0"] * 50
    row[STATE], row[PARENT] = state, parent
    return row


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({b"2": (b"S", b"1")}, False),
        ({b"2": (b"T", b"1")}, False),
        ({b"2": (b"R", b"1")}, True),
        ({b"2": (b"D", b"1")}, True),  # it waits for a disk
        ({b"2": (b"D", b"1"), b"3": (b"S", b"2")}, False),  # since `vfork`
        ({b"2": (b"D", b"1"), b"3": (b"R", b"2")}, True),
    ],
)
def test_who_wants_to_run(rows, expected):
    processes = Processes()
    processes._stats = {pid: fields(*row) for pid, row in rows.items()}
    assert (processes.running() or processes.waiting()) is expected
