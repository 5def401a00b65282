"""The frame of the benchmarks, with a suite of toys."""

import json
import math
import time
import types

import pytest
import toy_world

from experiments import benchmark
from experiments.benchmarks import frame, generation, limits


@pytest.fixture
def toy(monkeypatch):
    """A suite whose rows are known; it stands in for `loop`."""

    def run(options, say):
        say("toys")
        assert options.repeats >= 5
        return [
            frame.compare("seconds", 2.0, 5.0, "s", target=2.0),
            frame.compare("rate", 90.0, 100.0, "1/s", target=1.0, more_is_better=True),
            frame.limit("bytes", 40.0, 50.0, "MB", note="an | absolute limit"),
            frame.figure("bandwidth", 12345.0, "GB/s"),
            frame.not_measured("on a GPU", "tokens/s", 0.7),
        ]

    suite = types.SimpleNamespace(run=run)
    monkeypatch.setitem(__import__("sys").modules, "experiments.benchmarks.loop", suite)


def test_ratios_above_one_are_better_for_us():
    assert frame.compare("a", 2.0, 5.0, "s").ratio == 2.5
    assert frame.compare("a", 2.0, 5.0, "1/s", more_is_better=True).ratio == 0.4
    assert frame.limit("a", 40.0, 50.0, "MB").ratio == 1.25
    assert frame.limit("a", 60.0, 50.0, "MB").is_reached is False
    assert frame.limit("a", 50.0, 50.0, "MB").is_reached is True
    assert frame.compare("a", 2.0, 5.0, "s").is_reached is None
    assert frame.not_measured("a", "s", 2.0).is_reached is None


def test_sides_take_turns_and_warm_up_does_not_count():
    calls = []
    sides = {
        "ours": lambda: calls.append("ours") or time.sleep(0.001),
        "other": lambda: calls.append("other") or time.sleep(0.01),
    }
    seconds = frame.measure(sides, 5, warm_up=1)
    assert {name: len(values) for name, values in seconds.items()} == {
        "ours": 5,
        "other": 5,
    }
    assert len(calls) == 12
    # Whoever is measured first has another's leftovers in the caches: not always us.
    assert calls[2:6] == ["ours", "other", "other", "ours"]
    middle = frame.medians(seconds)
    assert 0.001 <= middle["ours"] < middle["other"]


def test_writes_json_a_table_and_its_section(toy, tmp_path, capsys):
    out, docs = tmp_path / "rows.json", tmp_path / "benchmarks.md"
    arguments = ["--suite", "loop", "--json", str(out), "--write-docs", str(docs)]
    assert benchmark.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "... toys" in shown and "missed" in shown and "not run yet" in shown
    data = json.loads(out.read_text())
    assert data["suite"] == "loop" and data["model"] == frame.DEFAULT_MODEL
    assert data["machine"].keys() >= {"cpu", "cores", "ram_gib"}
    assert data["versions"]["jax"] != "absent"
    assert [row["ratio"] for row in data["rows"]] == [2.5, 0.9, 1.25, None, None]
    for row in data["rows"]:
        assert row.keys() == {
            "name", "ours", "other", "unit", "ratio", "target", "note"
        }  # fmt: skip
    text = docs.read_text()
    assert f"--json {out}" in text and "an \\| absolute limit" in text
    assert "| 2.5x | 2x | reached |" in text and "| 0.9x | 1x | missed |" in text


def test_a_section_is_replaced_alone(tmp_path):
    docs, options = tmp_path / "benchmarks.md", frame.Options()
    for suite in ("loop", "generation", "operators"):
        rows = [frame.figure(f"{suite} first", 1.0, "s")]
        frame.write_section(docs, suite, options, rows, "command one")
    before = docs.read_text()
    places = [before.index(f"## {s}") for s in ("operators", "generation", "loop")]
    assert places == sorted(places) and before.startswith("# Benchmarks")
    with open(docs, "a") as file:
        file.write("\n## Causes\n\nA paragraph of one's own.\n")
    rows = [frame.figure("generation again", 2.0, "s")]
    frame.write_section(docs, "generation", options, rows, "command two")
    after = docs.read_text()
    assert "generation first" not in after and after.count("command two") == 1
    assert after.count("## generation") == 1
    assert after.endswith(
        "<!-- end loop -->\n\n## Causes\n\nA paragraph of one's own.\n"
    )
    for kept in ("loop first", "operators first"):
        line = next(line for line in before.splitlines() if kept in line)
        assert line in after.splitlines()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--repeats", "4"], "at least 5"),
        (["--json", "nowhere/at/all.json"], "folder that is there"),
    ],
)
def test_bad_input_is_one_sentence(toy, capsys, arguments, words):
    assert benchmark.main(["--suite", "loop", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("Bad input: ")


def test_random_weights_need_sizes_only():
    model = frame.base_model(frame.Options(random_weights=True))
    assert model.weights.keys() == model.config.weight_shapes().keys()
    assert model.config.hidden_size == 576


def test_generation_suite_on_a_toy_model(tmp_path, monkeypatch):
    """Both sides agree on every token; a kept cache saves prompt tokens."""
    settings = toy_world.make_world(tmp_path)
    monkeypatch.setattr(generation, "DECODE_TARGETS", {1: 1.8, 2: 1.2})
    monkeypatch.setattr(generation, "PREFILL_PROMPTS", (2,))
    monkeypatch.setattr(generation, "NEW", 6)
    monkeypatch.setattr(limits, "_BYTES", 1 << 20)
    monkeypatch.setattr(limits, "_SIDE", 64)
    said = []
    rows = generation.run(frame.Options(settings["base_model"]), said.append)
    named = {row.name: row for row in rows}
    assert len(named) == len(rows) and len(said) == 5
    agreeing = [row for name, row in named.items() if "same" in name]
    assert len(agreeing) == 4 and all(row.ratio == 1.0 for row in agreeing)
    decode = [row for row in rows if row.name.startswith("decode") and row.target > 1]
    assert [row.target for row in decode] == [1.8, 1.2]
    # Of six tokens a rate may come out as anything on a busy machine.
    assert all(math.isfinite(row.ours) and math.isfinite(row.other) for row in decode)
    computed = next(row for name, row in named.items() if "tokens computed" in name)
    # Each turn but the first computes its 60 tokens and the last one of the reply.
    assert computed.ours == 5 * 60 + 4
    assert computed.other == sum(60 * turn + 16 * (turn - 1) for turn in range(1, 6))
    assert computed.is_reached
