"""An engine that fails, and comes back."""

import served

from cycleqd_jax.inference.engine import Engine

ASK = {"model": "base", "prompt": "hello", "max_tokens": 2}


def fail(rows):
    raise RuntimeError("the device is gone")


def test_a_device_call_that_fails(toy_run, monkeypatch):
    with served.serving(toy_run) as there:
        desk = there.app.state.desk

        def ask():
            status, answer = there.post("/v1/completions", ASK)
            return status, answer.get("error", {}).get("message", "")

        assert ask() == (200, "")
        calls = desk.engine._calls
        for _ in range(2):  # one after the other, it would be the third
            monkeypatch.setattr(calls, "prefill", fail)
            assert ask() == (500, "The engine failed: RuntimeError.")
            assert ask()[0] == 500 and there.get("/health")[0] == 200
            monkeypatch.undo()
            assert ask() == (200, "")
        monkeypatch.setattr(calls, "prefill", fail)
        for _ in range(3):
            assert ask()[0] == 500
        there.wait_until(lambda: there.get("/health")[0] == 503)
        status, message = ask()
        assert status == 503 and "3 times in a row (the device is gone)" in message
        assert there.metric("cycleqd_healthy") == 0
        assert there.metric("cycleqd_slots_taken") == 0 == desk.running


def test_an_individual_that_cannot_be_loaded(toy_run, monkeypatch):
    with served.serving(toy_run) as there:
        loader = there.app.state.desk._loader
        monkeypatch.setattr(loader, "set_row", lambda row, genome: fail(row))
        status, answer = there.post("/v1/completions", ASK)
        assert status == 503
        words = "The model base cannot be loaded: the device is gone."
        assert answer["error"]["message"] == words
        monkeypatch.undo()
        assert there.post("/v1/completions", ASK)[0] == 200


def test_a_defect_while_compiling_ahead_leaves_nobody_waiting(toy_run, monkeypatch):
    def broken():
        raise ValueError("no such program")

    programs = [("a program", broken)]
    monkeypatch.setattr(Engine, "programs", lambda self: iter(programs))
    with served.serving(toy_run, warm_up=True) as there:
        there.wait_until(lambda: there.get("/health")[0] == 503)
        status, answer = there.post("/v1/completions", ASK)
        assert status == 503 and "no such program" in answer["error"]["message"]
