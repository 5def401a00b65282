"""Runs in other states: going on, of another machine, without a factored form."""

import concurrent.futures
import shutil

import openai
import pytest
import served

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import digest
from cycleqd_jax.reports.population import read_population
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.opened import open_run
from experiments import serve

ASK = {"prompt": "toy_a test 1", "max_tokens": 8}


def tree(folder):
    """All files and their bytes."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


def ask(there, model):
    return there.post("/v1/completions", ASK | {"model": model})


def ids(there):
    with openai.OpenAI(base_url=f"{there.url}/v1", api_key="-") as client:
        return {model.id for model in client.models.list()}


def test_a_run_that_is_going_on_and_then_finishes(toy_run, tmp_path, endpoint):
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    last = {name: run / name for name in ("state.json", "archives.parquet")}
    kept = {name: path.read_bytes() for name, path in last.items()}
    for path in last.values():
        path.unlink()
    newest = max((run / "checkpoints").iterdir(), key=lambda step: int(step.name))
    hidden = tmp_path / "newest"
    newest.rename(hidden)
    before = tree(run)
    with RunFolder(run, resume=True), served.serving(run) as there:  # it is locked
        names = ids(there)
        assert {"base", "expert/toy_a", "uniform_merge"} < names
        assert any(name.startswith("child/") for name in names)
        assert "aggregated" not in names and ask(there, "aggregated")[0] == 404
        # Its cells are those of the checkpoint, though metrics are further.
        early = read_population(open_run(run)).placements
        told = int(newest.name) - 2  # children of a batch
        held = {(p.archive, p.bins) for p in early if p.generation <= told}
        cells = {name for name in names if "," in name}
        assert len(cells) == len(held) and ask(there, min(cells))[0] == 200
        hidden.rename(newest)
        names = ids(there)
        now = tree(run)
        assert before.items() <= now.items()  # nothing of it was changed
        assert {n for n in names if "," in n} == {n for n in ids(endpoint) if "," in n}
        for name in names:
            if not name.startswith("trained_expert"):
                want = ask(endpoint, name)[1]["choices"]
                assert ask(there, name)[1]["choices"] == want
        for name in reversed(last):
            last[name].write_bytes(kept[name])
        assert ask(there, "aggregated")[0] == 200
        assert ids(there) == ids(endpoint)


def test_a_run_of_another_machine(toy_run, tmp_path, endpoint):
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    config = run / "config.yaml"
    base = toy_run.parent / "base"
    text = config.read_text().replace(str(toy_run.parent), "/elsewhere")
    config.write_text(text)
    sums = run / "SHA256SUMS"
    lines = [
        f"{digest(config)}  config.yaml" if line.endswith(" config.yaml") else line
        for line in sums.read_text().splitlines()
    ]
    sums.write_text("\n".join(lines) + "\n")
    words = "/elsewhere/base.*; --base-model says where"
    with pytest.raises(BadInputError, match=words), served.serving(run):
        pass
    with served.serving(run, base_model=str(base)) as there:
        want = ask(endpoint, "aggregated")[1]["choices"]
        assert ask(there, "aggregated")[1]["choices"] == want
        # Its experts are elsewhere; their genomes are here.
        status, answer = ask(there, "trained_expert/toy_a")
        assert status == 503 and "/elsewhere/toy_a" in answer["error"]["message"]
        assert ask(there, "expert/toy_a")[0] == 200
        other = {"base_model": str(toy_run.parent / "toy_a")}
        with pytest.raises(BadInputError), served.serving(run, **other):
            pass


def test_individuals_that_cannot_share_a_pass_take_turns(toy_run, endpoint):
    names = ["base", "champion/toy_b", "trained_expert/toy_a", "aggregated"] * 3
    with served.serving(
        toy_run, engine=served.ENGINE | {"mode": "materialised"}
    ) as one:
        with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
            answers = list(pool.map(lambda name: ask(one, name), names))
        assert all(status == 200 for status, _ in answers)
        texts = [answer["choices"][0]["text"] for _, answer in answers]
        assert texts[:4] == texts[4:8] == texts[8:] and len(set(texts[:3])) == 3
        assert ask(endpoint, "aggregated")[1]["choices"][0]["text"] == texts[3]
        # In factored mode whole experts answer between two calls of the others.
        assert (
            ask(endpoint, "trained_expert/toy_a")[1]["choices"][0]["text"] == texts[2]
        )
        assert ask(endpoint, "base")[1]["choices"][0]["text"] == texts[0]


def test_the_command_says_what_is_wrong(toy_run, tmp_path, capsys):
    for arguments, words in [
        ([str(tmp_path)], "is not a run folder"),
        ([str(toy_run), "--port", "70000"], "port"),
        ([str(toy_run), "engine.slots=0"], "engine.slots"),
        ([str(toy_run), "slots=4"], "slots"),
        ([str(toy_run), "--host", "no.such.host.invalid"], "cannot be listened on"),
        ([str(toy_run), "engine.length=32768", "--port", "0"], "engine.length"),
    ]:
        assert serve.main(arguments) == 2
        assert words in capsys.readouterr().err


def test_a_taken_port_is_refused(toy_run, endpoint, capsys):
    port = endpoint.url.rpartition(":")[2]
    assert serve.main([str(toy_run), "--port", port]) == 2
    assert "choose another" in capsys.readouterr().err
