"""Exports of a run; its first expert is a full fine-tune that moves everything."""

import dataclasses
import json
import pathlib
import shutil
import warnings

import fsspec
import huggingface_hub
import numpy as np
import pytest
import toy_world

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.merging.adapter_plan import percent
from cycleqd_jax.merging.genome import base_genome
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.llama.rope_config import RopeScaling
from cycleqd_jax.models.loading import load_model
from cycleqd_jax.progress import Observer
from cycleqd_jax.reports import exporting, model_card
from cycleqd_jax.runs.opened import OpenedRun
from cycleqd_jax.runs.setup import open_evaluator, prepare
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.tasks.base import Split
from experiments import agent_skills, export


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run; experts toy_b and toy_c are plain LoRA."""
    folder = tmp_path_factory.mktemp("export")
    settings = toy_world.make_world(folder)
    shutil.rmtree(folder / "toy_a")
    shutil.copytree(folder / "base", folder / "toy_a")
    rng = np.random.default_rng(7)
    weights = safetensors.open_folder(folder / "base")
    moved = {
        name: w + 0.1 * rng.standard_normal(w.shape, np.float32)
        for name, w in weights.items()
    }
    safetensors.write_file(folder / "toy_a" / safetensors.WEIGHTS, moved)
    settings |= {"run_dir": str(folder / "run"), "basis": {"rank": 3}}
    settings["qd"]["num_generations"] = 3
    settings["engine"]["mode"] = "materialised"
    config = toy_world.write_config(folder / "toy.yaml", settings)
    assert agent_skills.main(["--config", str(config)]) == 0
    return folder / "run"


def exported(run, target, *arguments):
    assert export.main([str(run), "--to", str(target), *arguments]) == 0
    return target


def episodes_of(folder, run, split):
    """Episodes of an exported folder, loaded back as a base model."""
    config = load_config(run / "config.yaml", [f"base_model={folder}"], RunConfig)
    prepared = prepare(config, None, Observer())
    sandbox = make_sandbox(config.sandbox)
    with open_evaluator(config, prepared, sandbox) as evaluator:
        models = {"x": base_genome(prepared.basis)}
        return evaluator.evaluate(models, split).episodes


def logged(run, individual, split):
    rows = [
        row
        for path in sorted((run / "results").glob("*.parquet"))
        for row in files.read_table(path).to_pylist()
    ]
    return [r for r in rows if (r["individual"], r["split"]) == (individual, split)]


def test_export_import_evaluate_gives_the_same_episodes(run, tmp_path):
    facts = files.read_json(run / "state.json")
    champion = facts["aggregation"]["toy_b"]["individual"]
    for name, asked, split in [
        ("aggregated", "aggregated", Split.TEST),
        (champion, "champion/toy_b", Split.OPTIMISE),
    ]:
        arguments = ["--individual", asked, "--no-adapter"]
        folder = exported(run, tmp_path / asked.replace("/", "-"), *arguments)
        want = logged(run, name, str(split))
        got = episodes_of(folder, run, split)
        assert len(got) == len(want) > 0
        for row, episode in zip(want, got, strict=True):
            for field in ("task", "problem", "outcome", "score", "answer", "finish"):
                assert row[field] == getattr(episode, field)
            assert tuple(row["tokens"]) == episode.tokens


def test_an_export_to_a_bucket(run, tmp_path, capsys):
    bucket, url = fsspec.filesystem("memory"), "memory://models/one"
    here = exported(run, tmp_path / "here", "--no-adapter")
    exported(run, url, "--no-adapter")
    there = {name.rpartition("/")[2] for name in bucket.find("/models/one")}
    assert there == {path.name for path in here.iterdir()}
    for name in there:
        assert bucket.cat(f"/models/one/{name}") == (here / name).read_bytes(), name
    assert export.main([str(run), "--to", url]) == 2
    assert f"--to: {url} has files already" in capsys.readouterr().err


def test_the_card_of_a_champion_names_it(run, tmp_path):
    folder = exported(run, tmp_path / "m", "--individual", "champion/toy_c")
    facts = files.read_json(run / "state.json")
    name = facts["aggregation"]["toy_c"]["individual"]
    assert f"# champion/toy_c ({name}) of run" in (folder / "README.md").read_text()


def test_the_head_of_a_card_is_what_the_hub_takes(run, tmp_path, monkeypatch):
    """Licences are in the parts' own cards, names of those that came from the hub."""
    for name in ("base", "toy_a", "toy_b", "toy_c"):
        path = run.parent / name / "README.md"
        text = path.read_text()
        if "license:" not in text:
            path.write_text(text.replace("---\n", "---\nlicense: mit\n", 1))

    def hub_name(source):
        name = pathlib.Path(source).name
        return None if name == "toy_c" else f"org/{name}"

    monkeypatch.setattr(model_card, "_hub_name", hub_name)
    monkeypatch.setattr(model_card, "find_download", pathlib.Path)
    folder = exported(run, tmp_path / "one", "--individual", "aggregated")
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    data = card.data.to_dict()
    index = data.pop("model-index")
    assert data == {
        "base_model": ["org/base", "org/toy_a", "org/toy_b"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "cycleqd", "cycleqd_jax"],
    }
    assert index[0]["name"] == "aggregated of run"
    solved = {r.dataset_name: r.metric_value for r in card.data.eval_results}
    rows = logged(run, "aggregated", "test")
    for task in ("toy_a", "toy_b", "toy_c"):
        scores = [row["score"] for row in rows if row["task"] == task]
        assert solved[task] == np.mean(scores)
    command = f"experiments.export {run} --individual aggregated --to FOLDER\n"
    assert command in card.text
    (run.parent / "toy_c" / "README.md").write_text("no head\n")
    other = exported(run, tmp_path / "two", "--no-adapter")
    head = huggingface_hub.ModelCard.load(other / "README.md").data
    assert (
        head.license is None and "| expert toy_c |" in (other / "README.md").read_text()
    )


class Hub:
    """The part of `HfApi` that an upload needs."""

    def __init__(self, taken=(), broken=False):
        self.taken, self.broken, self.done = taken, broken, []

    def repo_exists(self, name):
        return name in self.taken

    def create_repo(self, name, *, private):
        self.done.append((name, private))
        return f"https://huggingface.co/{name}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        if self.broken:
            raise OSError("the line is cut")
        self.done.append(sorted(p.name for p in pathlib.Path(folder_path).iterdir()))


@pytest.mark.parametrize("flags, private", [((), True), (("--public",), False)])
def test_an_upload_to_the_hub(run, tmp_path, monkeypatch, capsys, flags, private):
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "secret")
    arguments = ["--no-adapter", "--push-to-hub", "me/merged", *flags]
    folder = exported(run, tmp_path / "m", *arguments)
    assert hub.done == [
        ("me/merged", private),
        sorted(p.name for p in folder.iterdir()),
    ]
    said = _said(capsys)
    assert "https://huggingface.co/me/merged" in said and "secret" not in said
    text = (folder / "README.md").read_text()
    assert "- name: me/merged" in text and "secret" not in text


@pytest.mark.parametrize(
    ("hub", "token", "arguments", "says"),
    [
        (Hub(), None, ["me/m"], "there is no token of the hub on this machine"),
        (Hub(("me/m",)), "t", ["me/m"], "me/m exists on the hub already"),
        (Hub(), "t", ["a b/c"], "'a b/c' is no name of a model"),
        (Hub(), "t", ["alone"], "expected ORG/NAME, got 'alone'"),
        (Hub(), "t", [], "--public belongs to --push-to-hub"),
    ],
)
def test_uploads_that_are_refused_write_nothing(
    run, tmp_path, monkeypatch, capsys, hub, token, arguments, says
):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    flags = ["--push-to-hub", *arguments] if arguments else ["--public"]
    assert export.main([str(run), "--to", str(tmp_path / "m"), *flags]) == 2
    assert says in _said(capsys) and not list(tmp_path.iterdir()) and not hub.done


def test_a_gguf_file_beside_the_folder(run, tmp_path):
    folder = exported(run, tmp_path / "m", "--no-adapter", "--gguf", "F16")
    whole, other = load_model(folder), load_model(folder / "model-F16.gguf")
    chat = [{"role": "user", "content": "1 plus 1"}]
    assert other.tokenizer.encode_chat(chat) == whole.tokenizer.encode_chat(chat)
    assert other.weights.keys() == whole.weights.keys()
    for name, weight in whole.weights.items():
        room = 2**-11 * np.abs(weight).max()
        np.testing.assert_allclose(other.weights[name], weight, rtol=0, atol=room)


def test_a_model_that_no_gguf_file_holds_writes_nothing(
    run, tmp_path, capsys, monkeypatch
):
    config = load_model(run.parent / "base").config
    odd = config.model_copy(
        update={"rope_scaling": RopeScaling(rope_type="dynamic", factor=2.0)}
    )
    monkeypatch.setattr(
        OpenedRun,
        "load_any_base",
        lambda self: dataclasses.replace(load_model(run.parent / "base"), config=odd),
    )
    assert export.main([str(run), "--to", str(tmp_path / "m"), "--gguf", "F16"]) == 2
    assert "rope_scaling of type 'dynamic' is not written" in _said(capsys)
    assert not list(tmp_path.iterdir())


def test_an_upload_that_fails_leaves_the_folder(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(broken=True))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "t")
    flags = ["--no-adapter", "--push-to-hub", "me/m"]
    assert export.main([str(run), "--to", str(tmp_path / "m"), *flags]) == 1
    assert "(the line is cut); go on with `hf upload me/m" in _said(capsys)
    assert (tmp_path / "m" / "config.json").is_file()


def test_an_adapter_of_the_rank_that_was_asked_for(run, tmp_path, capsys):
    whole = exported(run, tmp_path / "whole", "--individual", "expert/toy_b")
    assert "rank 2; for vLLM: --enable-lora --max-lora-rank 8" in _said(capsys)
    cut = exported(
        run, tmp_path / "cut", "--individual", "expert/toy_b", "--max-rank", "1"
    )
    said = _said(capsys)
    assert "rank 1; for vLLM: --enable-lora --max-lora-rank 1" in said
    share = loss_by_hand(cut, run.parent / "base", cut / "adapter")
    assert 0.01 < share < 0.99
    assert f"it loses {percent(share)} of the change" in said
    assert f"{percent(share)} of the change" in (cut / "adapter/README.md").read_text()
    for name, weight in safetensors.open_folder(whole).items():  # the model is whole
        np.testing.assert_array_equal(weight, safetensors.open_folder(cut)[name])
    for wrong in ("0", "two", "-1"):
        with pytest.raises(SystemExit):
            export.main([str(run), "--to", str(tmp_path / "x"), "--max-rank", wrong])
        assert f"'{wrong}' is no rank" in capsys.readouterr().err


@pytest.mark.parametrize(
    "rank, said", [(24, "rank 32"), (512, "rank 512"), (513, "--max-rank 512")]
)
def test_a_server_needs_room_for_the_rank(rank, said):
    assert exporting.serving(rank).endswith(said)


def _said(capsys):
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def loss_by_hand(folder, base, adapter):
    """Lost share of the change, from the files alone."""
    from safetensors.numpy import load_file

    settings = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    new, old = safetensors.open_folder(folder), safetensors.open_folder(base)
    change = lost = 0.0
    for name in old:
        delta = new[name].astype(np.float64) - old[name]
        change += np.sum(delta**2)
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" in tensors:
            a, b = (tensors[f"{key}.lora_{x}.weight"].astype(float) for x in "AB")
            module = key.removeprefix("base_model.model.")
            alpha = settings["alpha_pattern"].get(module, settings["lora_alpha"])
            assert alpha == len(a)  # a scale of one
            delta -= b @ a
        lost += np.sum(delta**2)
    return lost / change


def test_an_inexact_adapter_needs_approximate(run, tmp_path, capsys):
    folder = exported(run, tmp_path / "m", "--individual", "uniform_merge")
    output = capsys.readouterr().out
    assert "no adapter: it would lose" in output and "--approximate" in output
    assert not (folder / "adapter").exists()
    arguments = ["--individual", "uniform_merge", "--approximate"]
    again = exported(run, tmp_path / "n", *arguments)
    assert (again / safetensors.WEIGHTS).read_bytes() == (
        folder / safetensors.WEIGHTS
    ).read_bytes()
    note = capsys.readouterr().out
    card = (again / "adapter" / "README.md").read_text()
    share = loss_by_hand(again, run.parent / "base", again / "adapter")
    assert 0.01 < share < 1
    for text in (output, note, card):
        assert f"{percent(share)} of the change" in text
        assert "in norms and biases" in text and "also the head" in text
    assert "**Approximate**" in card
    load_in_peft(again / "adapter")


def test_an_exact_individual_needs_no_permission(run, tmp_path, capsys):
    folder = exported(run, tmp_path / "m", "--individual", "expert/toy_b")
    assert "lose" not in capsys.readouterr().out
    share = loss_by_hand(folder, run.parent / "base", folder / "adapter")
    assert share < 1e-10
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert settings["r"] == 2  # that of the expert, not of the basis
    adapted, tokens = load_in_peft(folder / "adapter")
    import torch
    import transformers

    whole = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        want, got = whole(tokens).logits, adapted(tokens).logits
    assert torch.abs(got - want).max() <= 1e-4 * torch.abs(want).max()


def load_in_peft(adapter: pathlib.Path):
    import peft
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.AutoPeftModelForCausalLM.from_pretrained(adapter)
    return adapted, torch.arange(20)[None]


def test_the_known_individuals_name_the_champions(run, tmp_path, capsys):
    arguments = ["--individual", "champion/toy_x", "--to", str(tmp_path / "m")]
    assert export.main([str(run), *arguments]) == 2
    error = capsys.readouterr().err
    assert "'champion/toy_x'" in error and "champion/toy_c" in error
    assert not (tmp_path / "m").exists()
