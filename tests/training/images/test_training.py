"""The training command on images, with a tiny model: what it writes and refuses."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import toy_world
from safetensors.numpy import load_file

from cycleqd_jax.models.expert_folders import open_segmentation_expert
from cycleqd_jax.models.formats.hf_folder import open_segmentation_model
from experiments import new_model, segmentation_table, train_experts

TESTS = pathlib.Path(__file__).parents[2]
SIDES = {"image_size": 32, "patch_size": 8}
MODEL = {
    "seed": 0,
    "model": {
        "model_type": "sam",
        "vision_config": SIDES
        | {
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "window_size": 0,
            "num_pos_feats": 8,
            "mlp_dim": 24,
        },
        "prompt_encoder_config": SIDES | {"hidden_size": 16, "mask_input_channels": 4},
        "mask_decoder_config": {
            "hidden_size": 16,
            "mlp_dim": 20,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_multimask_outputs": 1,
            "iou_head_hidden_dim": 8,
        },
    },
}


def write(folder, settings) -> str:
    return str(toy_world.write_config(folder / "config.yaml", settings))


def command(folder, settings, *overrides) -> int:
    config = write(folder, settings)
    return train_experts.main(["--config", config, *overrides])


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The settings of a training, whose model is there."""
    folder = tmp_path_factory.mktemp("sam")
    made = write(folder, MODEL | {"output": str(folder / "untrained")})
    assert new_model.main(["--config", made]) == 0
    return {
        "kind": "segmentation",
        "base_model": str(folder / "untrained"),
        "save_dtype": "float32",
        "tasks": ["pocket_polyps", "pocket_leaves"],
        "problems": {"train": 6, "validate": 3, "test": 2},
        "lora": {"rank": 2},
        "optimiser": {
            "learning_rate": 0.01,
            "warmup_steps": 1,
            "steps": 5,
            "batch_size": 4,
            "checkpoint_every": 2,
            "validate_every": 2,
        },
    }


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """The folder of two experts, trained without an interruption."""
    folder = tmp_path_factory.mktemp("straight")
    assert command(folder, world, f"output={folder / 'out'}") == 0
    return folder / "out"


def test_it_writes_adapters_that_learnt(world, trained):
    config, weights = open_segmentation_model(world["base_model"])
    assert sorted(p.name for p in trained.iterdir()) == sorted(world["tasks"])
    for name in world["tasks"]:
        folder = trained / name
        expert = open_segmentation_expert(folder, config, weights)
        assert all(f.b.any() and f.a.shape[0] == 2 for f in expert.factors.values())
        assert "vision_encoder.layers.0.attn.qkv.weight" in expert.factors
        others = "output_hypernetworks_mlps.1"  # of a mask that no prompt asks for
        assert not any(others in n or "tokens" in n for n in expert.factors)
        history = (folder / "history.jsonl").read_text()
        rows = [json.loads(line) for line in history.splitlines()]
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
        curve = {"validation_loss", "validation_jaccard"}
        assert rows[2].keys() == {"step", "loss", "jaccard"}
        assert rows[4].keys() == {"step", "loss", "jaccard", *curve}
        assert rows[4]["validation_loss"].keys() == set(world["tasks"])
        cost = json.loads((folder / "cost.json").read_text())
        # 5 updates of 4 images, 3 losses on 6, and 2 models on 6
        assert cost["images_forward"] == 20 + 18 + 12
        assert cost["images_backward"] == 20
        card = (folder / "README.md").read_text()
        assert "pipeline_tag: mask-generation" in card
        assert "| pocket_leaves | jaccard |" in card


def test_a_complete_expert_is_kept(world, trained, tmp_path, capsys):
    out = shutil.copytree(trained, tmp_path / "out")
    before = contents(out)
    assert command(tmp_path, world, f"output={out}") == 0
    assert "pocket_polyps is complete" in capsys.readouterr().out
    assert contents(out) == before
    assert command(tmp_path, world, f"output={out}", "lora.rank=3") == 2
    assert "lora.rank 2 where it is now 3" in capsys.readouterr().err


def test_the_table_of_rivals(world, trained, tmp_path, capsys):
    config = write(tmp_path, world | {"output": str(trained)})
    assert segmentation_table.main(["--config", config]) == 0
    out = capsys.readouterr().out
    assert "2 images of test each" in out
    lines = [x.strip("| ").split(" | ") for x in out.splitlines() if x.startswith("|")]
    assert [x[0] for x in lines] == ["model", "---", "base", *world["tasks"], "margin"]
    assert lines[0][1:] == ["pocket_polyps (structure)", "pocket_leaves (jaccard)"]
    scores = np.array([[float(x) for x in line[1:]] for line in lines[2:-1]])
    margin = scores[1, 0] - max(scores[0, 0], scores[2, 0])
    assert abs(float(lines[-1][1]) - margin) < 0.002
    assert segmentation_table.main(["--config", config, "problems.test=0"]) == 2
    assert "problems.test is 0, so pocket_polyps" in capsys.readouterr().err


@pytest.mark.slow
def test_full_training_changes_what_the_loss_reaches(world, tmp_path):
    changes = {
        "method": "full",
        "experts": {"both": {"pocket_polyps": 1, "pocket_shapes": 1}},
        "validate_on": [],
        "optimiser": world["optimiser"] | {"validate_every": 0},
    }
    settings = {k: v for k, v in world.items() if k != "tasks"} | changes
    assert command(tmp_path, settings, f"output={tmp_path / 'out'}") == 0
    name = "model.safetensors"
    before = load_file(pathlib.Path(world["base_model"]) / name)
    after = load_file(tmp_path / "out" / "both" / name)
    assert before.keys() == after.keys()
    still = {n for n, w in before.items() if np.array_equal(w, after[n])}
    unused = ("prompt_encoder", "mask_decoder.output_hypernetworks_mlps.1")
    expected = {n for n in before if n.startswith(unused)}
    assert still == expected - {"prompt_encoder.no_mask_embed.weight"}


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_bytes(world, trained, tmp_path):
    """Killed after a checkpoint of the first expert, then started again."""
    config = write(tmp_path, world | {"output": "out"})
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"  # as in this process

    def start(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *words, "--config", config],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )

    driver = str(TESTS / "training" / "kill_training.py")
    killed = start(driver, "step made", "4")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = start("-m", "experiments.train_experts")
    assert again.returncode == 0, again.stderr
    assert "pocket_polyps resumes from its checkpoint of step 2" in again.stdout
    got, want = contents(tmp_path / "out"), contents(trained)
    assert got.keys() == want.keys()
    for name in got:
        if not name.endswith(("cost.json", "training.yaml")):  # seconds, and `output`
            assert got[name] == want[name], name


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "video"}, "kind is 'video'; expected one of text, segmentation"),
        ({"tasks": ["pocket_clouds"]}, "no data set of images 'pocket_clouds'; known"),
        ({"optimiser": {"max_length": 96}}, "optimiser.max_length"),
        ({"packing": True}, "packing"),
        ({"problems": {"train": 2}}, "problems.train is 2; expected at least optim"),
        ({"problems": {"validate": 0}}, "problems.validate is 0, so pocket_polyps"),
        ({"lora": {"targets": ["q_pro"]}}, "'q_pro', which names no linear layer"),
        (
            {"task_settings": {"pocket_polyps": {"sise": 64}}},
            "task_settings.pocket_polyps.sise",
        ),
        ({"task_settings": {"pocket_camo": {}}}, "'pocket_camo', which is not one of"),
        ({"tasks": ["pocket_coding"]}, "no data set of images 'pocket_coding'"),
        ({"tasks": ["toy_task:ToyA"]}, "toy_task:ToyA is no data set of images"),
        ({"tasks": ["kvasir_seg"]}, "kvasir"),
    ],
)
def test_bad_settings_are_one_sentence(world, tmp_path, capsys, changes, sentence):
    settings = dict(world)
    for key, value in changes.items():
        own = settings.get(key)
        settings[key] = own | value if isinstance(own, dict) else value
    assert command(tmp_path, settings, f"output={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    assert sentence in error and error.startswith("Bad input: ")
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_mixed_prompts_are_refused(world, tmp_path, capsys):
    settings = {k: v for k, v in world.items() if k != "tasks"}
    settings["experts"] = {"mixed": {"pocket_polyps": 1, "pocket_leaves": 1}}
    settings["task_settings"] = {"pocket_leaves": {"prompt": "box"}}
    assert command(tmp_path, settings, f"output={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    assert "none (pocket_polyps), box (pocket_leaves); expected one kind" in error


def test_models_of_another_kind_are_refused(world, toy_settings, tmp_path, capsys):
    toy = toy_settings["base_model"]
    out = f"output={tmp_path / 'out'}"
    assert command(tmp_path, world, out, f"base_model={toy}") == 2
    error = capsys.readouterr().err
    assert "model_type 'llama' is not supported; supported: sam" in error
    text = {
        "base_model": world["base_model"],
        "tasks": ["toy_task:ToyA"],
        "engine": toy_settings["engine"],
    }
    assert command(tmp_path, text, out) == 2
    assert "'sam' is not supported; supported: llama" in capsys.readouterr().err


def test_new_models_are_kept_and_checked(world, tmp_path, capsys):
    kept = write(tmp_path, MODEL | {"output": world["base_model"]})
    assert new_model.main(["--config", kept]) == 0
    assert "is complete" in capsys.readouterr().out
    assert new_model.main(["--config", kept, "seed=1"]) == 2
    assert "holds another model" in capsys.readouterr().err
    cases = [
        ("tasks=[pocket_db]", "a segmentation model has no tokeniser"),
        ("model.vision_config={hiden_size: 16}", "has no setting 'hiden_size'"),
        ("model.model_type=sam2", "tasks is missing"),
    ]
    for change, sentence in cases:
        assert new_model.main(["--config", kept, change]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_nothing_of_text_is_imported_on_the_way(world, tmp_path):
    """Not even while training, scoring and writing."""
    config = write(tmp_path, world | {"output": str(tmp_path / "out")})
    code = (
        "import sys\n"
        "from experiments import train_experts\n"
        f"assert train_experts.main(['--config', {config!r},\n"
        "    'tasks=[pocket_polyps]', 'optimiser.steps=2']) == 0\n"
        "print('IMPORTED', *sys.modules)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = set(done.stdout.partition("IMPORTED")[2].split())
    text = ("transformers", "tokenizers", "torch", "lm_eval", "evalplus")
    text += ("cycleqd_jax.inference.engine", "cycleqd_jax.evaluation.local")
    text += ("cycleqd_jax.sandbox.bubblewrap", "cycleqd_jax.training.setup")
    assert found.isdisjoint(text), found & set(text)
