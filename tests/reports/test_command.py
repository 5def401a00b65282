import json
import shutil

import run_contents

from experiments import report


def test_prints_the_table_and_where_the_page_is(finished_run, capsys):
    assert report.main([str(finished_run)]) == 0
    out, err = capsys.readouterr()
    assert not err and out.isascii() and "\x1b" not in out
    written = json.loads((finished_run / "report" / "report.json").read_text())
    mean = written["models"]["aggregated"]["test"]["mean"]
    row = next(line for line in out.splitlines() if line.startswith("aggregated "))
    assert f"{mean:.3f} [" in row
    assert f"report: {finished_run / 'report' / 'report.html'}" in out
    assert "scaled_merge" in out and "standard error" in out

    metrics = written["metrics"]["aggregated"]["test"]["skill_a"]
    assert metrics.keys() == {"plus"}
    row = next(ln for ln in out.splitlines() if ln.split()[:2] == ["skill_a", "plus"])
    assert row.endswith(f" {metrics['plus']:.3f}")


def test_wrong_folder_is_one_sentence_and_code_2(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "not a run folder" in err


def test_several_runs_give_a_row_each_and_their_mean(finished_run, tmp_path, capsys):
    other = shutil.copytree(finished_run, tmp_path / "other")
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("seed: 3", "seed: 4"))
    run_contents.seal(other)
    assert report.main([str(finished_run), str(other)]) == 0
    lines = capsys.readouterr().out.splitlines()
    firsts = [line.split()[0] for line in lines if line.strip()]
    assert firsts[-3:] == ["3", "4", "mean"]


def test_runs_that_cannot_be_compared(finished_run, fabricate, capsys):
    assert report.main([str(finished_run), str(fabricate(2, 1))]) == 2
    assert "different tasks" in capsys.readouterr().err
