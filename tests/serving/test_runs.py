"""Runs in other states: going on, of another machine, without a factored form."""

import concurrent.futures
import dataclasses
import shutil

import openai
import pytest
import served

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import digest
from cycleqd_jax.progress import Observer
from cycleqd_jax.reports.population import read_population
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.serving.loading import open_desk
from cycleqd_jax.serving.server import listen
from cycleqd_jax.serving.settings import ServeSettings
from experiments import explore, serve

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
        for name in ("aggregated", "best_of_archive", "scaled_merge", "champion/toy_a"):
            status, answer = ask(there, name)
            assert name not in names and status == 404
            words = "does not exist in run yet; models of this kind come when the run"
            assert words in answer["error"]["message"]
            with pytest.raises(BadInputError, match="come when the run has finished"):
                open_run(run).individual(name)
        assert "come when" not in ask(there, "nobody")[1]["error"]["message"]
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
        ([str(tmp_path), "--port", "0"], "is not a run folder"),
        ([str(toy_run), "--port", "70000"], "port"),
        ([str(toy_run), "engine.slots=0"], "engine.slots"),
        (
            [str(toy_run), "engine.slots=2", "engine.prefill_rows=4"],
            "prefill_rows is 4; expected at most slots, which is 2",
        ),
        ([str(toy_run), "slots=4"], "slots"),
        ([str(toy_run), "--host", "no.such.host.invalid"], "cannot be listened on"),
        ([str(toy_run), "engine.length=32768", "--port", "0"], "engine.length"),
    ]:
        assert serve.main(arguments) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("command", [serve, explore])
def test_a_wrong_address_is_refused_before_anything_is_read(
    command, toy_run, monkeypatch, capsys
):
    monkeypatch.setattr(serve, "open_run", lambda path: pytest.fail("it reads"))
    # A server that is still loading has its address already.
    with listen(ServeSettings(port=0)) as other:
        port = str(other.getsockname()[1])
        for address in [("--port", port), ("--host", "192.0.2.1")]:
            assert command.main([str(toy_run), *address]) == 2
            assert "choose another" in capsys.readouterr().err


def test_few_slots_are_given_few_rows(toy_run):
    engine = served.ENGINE | {"slots": 2}
    del engine["prefill_rows"]
    with served.serving(toy_run, engine=engine) as there:
        assert there.app.state.desk.engine.settings.prefill_rows == 2
        status, answer = there.post(
            "/v1/completions", ASK | {"model": "base", "prompt": ["a", "b c", "d"]}
        )
        assert status == 200 and len(answer["choices"]) == 3


@pytest.mark.parametrize(
    ("change", "words", "advised"),
    [
        ({"base_model": "no/such/model"}, "no/such/model.*", True),
        ({"tasks": ("no_such_module:Task",)}, "on Python's path", False),
        ({"tasks": ("camo",)}, "is a run of segmentation models", False),
    ],
)
def test_only_a_fault_of_the_base_model_advises_where_it_is(
    toy_run, change, words, advised
):
    opened = open_run(toy_run)
    changed = opened.config.model_copy(update=change)
    opened = dataclasses.replace(opened, config=changed)
    with pytest.raises(BadInputError, match=words) as caught:
        open_desk(opened, ServeSettings(), Observer())
    assert ("--base-model" in str(caught.value)) is advised
