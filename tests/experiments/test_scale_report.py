"""`experiments.scale_report`: the table and the curves of files of scale_check."""

import json
import pathlib

import pytest

from experiments import scale_report
from experiments.scale import growth, table


def found(**changes):
    """A file of one decode step, and of a program that does not fit."""
    decode = {
        "name": "decode, factored",
        "remark": "",
        "layers_are_all": False,
        "fits": True,
        "argument_bytes": 4e9,
        "temporary_bytes": 5e7,
        "held_bytes": 2e9,
        "peak_bytes": 4.1e9,
        "total_bytes": 6.1e9,
        "bytes_needed": 4e9,
        "bytes_accessed": 5e9,
        "bytes_accessed_by_xla": 2e10,
        "seconds_at_roofline": 0.006,
        "collectives": {"all-reduce": {"count": 67.0, "bytes": 3.7e7}},
    }
    refused = dict.fromkeys(decode) | {
        "name": "factorise",
        "remark": "one device",
        "layers_are_all": True,
    }
    data = {
        "model": "meta-llama/Meta-Llama-3-8B",
        "topology": "v5e:2x4",
        "mesh": {"data": 1, "tensor": 8},
        "dtype": "bfloat16",
        "individuals": 16,
        "slots": 64,
        "length": 2048,
        "rank": 128,
        "layers_compiled": [4, 6],
        "limits": {"memory": 1.6e10},
        "programs": [refused, decode],
    }
    data |= changes
    scale = changes.get("individuals", 16) / 16
    decode |= {"total_bytes": 6.1e9 * scale, "seconds_at_roofline": 0.006 * scale}
    return data


def test_a_row_says_everything():
    lines = table.markdown([found()]).splitlines()
    refused, row = lines[2:]
    assert len({line.count("|") for line in lines}) == 1
    assert "factorise (one device); all layers" in refused
    assert "does not fit" in refused
    for text in ("Meta-Llama-3-8B, v5e:2x4 (1 x 8)", "from 4 and 6 layers", "4.00 GB",
                 "50.0 MB", "6.10 GB", "| 1.25 |", "20.00 GB", "6 ms",
                 "67 all-reduce, 37.0 MB", "64 x 2048, rank 128"):  # fmt: skip
        assert text in row, text


def test_a_series_varies_one_thing():
    files = [found(individuals=n) for n in (64, 1, 16)]
    files += [found(slots=128), found(rank=64), found(individuals=4, rank=64)]
    files += [found(topology="v5e:4x4", mesh={"data": 2, "tensor": 8})]
    made = growth.series(files)
    assert list(made) == ["individuals", "slots", "chips"]
    assert [p.value for p in made["individuals"]] == [1, 16, 64]
    assert [p.gigabytes for p in made["individuals"]] == pytest.approx(
        [6.1 / 16, 6.1, 24.4]
    )
    assert [p.value for p in made["slots"]] == [64, 128]
    assert [p.value for p in made["chips"]] == [8, 16]


def test_the_command_replaces_the_table_and_draws(tmp_path, capsys):
    paths = []
    for n in (1, 16):
        paths.append(str(tmp_path / f"{n}.json"))
        (tmp_path / f"{n}.json").write_text(json.dumps(found(individuals=n)))
    docs, plot = tmp_path / "scale.md", tmp_path / "growth.png"
    docs.write_text("before\n<!-- begin figures -->\nold\n<!-- end figures -->\nafter")
    command = [*paths, "--write-docs", str(docs), "--plot", str(plot)]
    assert scale_report.main(command) == 0
    text = docs.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter")
    assert "old" not in text
    assert text.count("decode, factored; from 4 and 6 layers") == 2
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert scale_report.main(command) == 0 and docs.read_text() == text


def test_the_documents_table_is_made_of_the_files_beside_it():
    docs = pathlib.Path(__file__).parents[2] / "docs"
    paths = sorted((docs / "results" / "scale").glob("*.json"))
    made = table.markdown([scale_report.read(path) for path in paths])
    assert made.count("\n") > 2 and made in (docs / "scale.md").read_text("utf-8")


def test_bad_input_is_refused_in_one_sentence(tmp_path, capsys):
    def refused(said, *arguments):
        assert scale_report.main([str(one) for one in arguments]) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.strip().splitlines()) == 1

    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(found()))
    refused("cannot be read", tmp_path / "none.json")
    for text in ("[]", "{", "3"):
        bad.write_text(text)
        refused("expected JSON of scale_check", bad)
    bad.write_text(json.dumps(found() | {"programs": []}).replace("limits", "x"))
    refused("it lacks limits", bad)
    refused("<!-- begin figures -->", good, "--write-docs", bad)
    refused("differ in individuals, slots or chips", good, "--plot", tmp_path / "x.png")
