"""A small sample of the fuzzed input, and what the large one has found."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toy_world
import yaml

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.loading import load_expert, load_model
from cycleqd_jax.reports import console
from cycleqd_jax.training.settings import TrainConfig

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import fuzz_world  # noqa: E402
import mutate  # noqa: E402
import prove_fuzz  # noqa: E402


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder of small inputs, and the settings of a run of them."""
    folder = tmp_path_factory.mktemp("world")
    return folder, fuzz_world.make_inputs(folder)


def refusal(path, text, model=RunConfig):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInputError) as caught:
        load_config(path, [], model)
    message = str(caught.value)
    assert str(path) in message and message.isprintable() and len(message) <= 1000
    return message


BOMB = ", ".join(
    ["&a0 [x, x]"] + [f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            f"tasks: [{BOMB}]",
            "tasks.0: Input should be a valid string (given: ['x",
        ),
        (f"qd: [{BOMB}]", "QDSettings (given: [["),
        (f"seed: 0x{'f' * 5000}", "(given: an integer of 20000 bits)"),
        ("seed: !!timestamp 1", "not valid YAML"),
        (
            "experts: {1000.0: a}",
            "experts.[key]: Input should be a valid string (given: 1",
        ),
        ('"\\n\\n": 1', "Extra inputs are not permitted"),
        (f"? {'a' * 100_000}\n: 1", "Extra inputs are not permitted"),
        (f"seed: {'[' * 3000}", "not valid YAML"),
    ],
)
def test_what_was_found(world, tmp_path, line, words):
    key = line.partition(":")[0]
    rest = {name: value for name, value in world[1].items() if name != key}
    text = f"{yaml.safe_dump(rest)}\n{line}\n"
    assert words in refusal(tmp_path / "c.yaml", text)


@pytest.mark.parametrize("model", [RunConfig, TrainConfig])
def test_a_hundred_mutated_configs(world, tmp_path, model):
    rng, refused = random.Random(0), 0
    path = tmp_path / "c.yaml"
    start = world[1]
    if model is TrainConfig:
        text = (prove_fuzz.CONFIGS / "quickstart_experts.yaml").read_text()
        start = yaml.safe_load(text)
    for _ in range(100):
        path.write_bytes(mutate.mutate_config(start, rng))
        try:
            load_config(path, [], model)
        except BadInputError as err:
            refused += 1
            assert str(err).isprintable() and len(str(err)) <= 1000
    assert refused > 60


@pytest.mark.parametrize("base", ["base", "sharded", "base.gguf"])
def test_undamaged_inputs_load(world, base):
    model = load_model(world[0] / base)
    assert model.tokenizer.encode("12") == [258]
    load_expert(world[0] / toy_world.TASKS[0], model)


def test_a_few_damaged_inputs(world, tmp_path, capsys):
    """Weights, shards, GGUF, adapters and tokenisers, read without a run."""
    folder, settings = world
    rng, codes = random.Random(1), []
    for name in ("weights", "shards", "gguf", "adapters", "tokenisers"):
        for number in range(8):
            place = shutil.copytree(folder, tmp_path / f"{name}-{number}")
            patterns = prove_fuzz.INPUTS[name][1]
            path = rng.choice(sorted(p for x in patterns for p in place.glob(x)))
            damaged = mutate.mutate_file(path.name, path.read_bytes(), rng)
            path.write_bytes(damaged)
            base = {"gguf": "base.gguf", "shards": "sharded"}.get(name, "base")

            def read(place=place, base=base) -> int:
                model = load_model(place / base, settings.get("dtype", "float32"))
                model.tokenizer.encode_chat([{"role": "user", "content": "hello"}])
                load_expert(place / toy_world.TASKS[0], model)
                return 0

            code = console.guarded(read, interrupted="")
            answer = {"code": code, "text": capsys.readouterr().err}
            assert prove_fuzz.wrong(answer) is None, path
            codes.append(code)
            shutil.rmtree(place)
    assert codes.count(2) > 15


def test_what_is_no_sentence_is_found():
    wrong = prove_fuzz.wrong
    assert wrong({"code": 0, "text": ""}) is None
    assert wrong({"code": 2, "text": "Bad input: seed is -1.\n"}) is None
    assert wrong({"code": 1, "text": "Failed: it broke.\nGo on with: x\n"}) is None
    for answer in (
        {"error": "Traceback ..."},
        {"code": 2, "text": ""},
        {"code": 2, "text": "Bad input: one\ntwo\n"},
        {"code": 2, "text": f"Bad input: {'a' * 5000}\n"},
        {"code": 3, "text": "Bad input: seed is -1.\n"},
        {"code": 1, "text": "Failed: this machine's memory is used up.\n"},
    ):
        assert wrong(answer) is not None


@pytest.mark.slow
def test_the_proof_with_few_cases():
    command = [sys.executable, HERE / "prove_fuzz.py", "--count", "100", "--seed", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failures" in done.stdout
