"""Weights in .bin files are refused with a command that converts them."""

import shlex
import sys

import peft
import pytest
import torch

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.loading import load_expert, load_model


def follow(error, monkeypatch):
    """Does what the end of a message says, in this process."""
    python, flag, program, *arguments = shlex.split(str(error).rpartition("): ")[2])
    assert (python, flag) == (sys.executable, "-c")
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    exec(program, {})


@pytest.mark.parametrize("tied", [True, False])
def test_a_model(hf, tmp_path, same_weights, monkeypatch, tied):
    model = hf.model(tie_word_embeddings=tied)
    folder = hf.save(tmp_path / "with space", model)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(BadInputError, match="only safetensors weights") as caught:
        load_model(folder)
    follow(caught.value, monkeypatch)
    same_weights(load_model(folder).weights, hf.weights(model))


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_an_adapter(hf, tmp_path, monkeypatch):
    base = load_model(hf.save(tmp_path / "base", hf.model()))
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"])
    adapted = peft.get_peft_model(hf.model(), settings)
    adapted.save_pretrained(tmp_path / "new")
    adapted.save_pretrained(tmp_path / "old", safe_serialization=False)
    with pytest.raises(BadInputError, match="only safetensors are read") as caught:
        load_expert(tmp_path / "old", base)
    follow(caught.value, monkeypatch)
    expert = load_expert(tmp_path / "old", base)
    assert expert.fingerprint == load_expert(tmp_path / "new", base).fingerprint


def test_a_gguf_file_in_a_folder(hf, tmp_path):
    folder = hf.save(tmp_path, hf.model())
    (folder / "model.safetensors").rename(folder / "m.gguf")
    with pytest.raises(BadInputError, match=r"as a base model, pass .*m\.gguf"):
        load_model(folder)
