"""A run whose full expert added a token to a tied base and untied it; its exports."""

import warnings

import jax.numpy as jnp
import numpy as np
import peft
import torch
import toy_world
from forward import full_logits
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cycleqd_jax.models.llama.program import LlamaProgram
from cycleqd_jax.models.loading import load_model
from cycleqd_jax.models.sharding import put_on_device
from experiments import agent_skills, export

TOOL = toy_world.TOKENS  # the base's tokens are those before


def untied_expert(base, folder):
    """Written by transformers: one more token, padded to a multiple of 64."""
    plain = AutoModelForCausalLM.from_pretrained(base)
    config = AutoConfig.from_pretrained(base)
    config.tie_word_embeddings = False
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    own = plain.state_dict()
    moved = {n: w + 0.2 * torch.randn_like(w) for n, w in own.items()}
    model.load_state_dict(moved)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<tool>"], special_tokens=True)
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.get_input_embeddings().weight[TOOL].detach().numpy()


def test_a_run_with_a_union(tmp_path, capsys):
    settings = toy_world.make_world(tmp_path, num_tasks=2)
    (tmp_path / "toy_b").rename(tmp_path / "lora_b")
    row = untied_expert(tmp_path / "base", tmp_path / "toy_b")
    settings |= {"vocabulary": "union"}
    settings["qd"] |= {"num_generations": 2}
    config = toy_world.write_config(tmp_path / "config.yaml", settings)
    run, out = tmp_path / "run", tmp_path / "out"
    assert agent_skills.main(["--config", str(config), f"run_dir={run}"]) == 0
    arguments = ["--individual", "expert/toy_a", "--to", str(out)]
    assert export.main([str(run), *arguments]) == 0

    ours = load_model(out)
    assert ours.config.vocab_size == TOOL + 1 and not ours.config.tie_word_embeddings
    theirs = AutoModelForCausalLM.from_pretrained(out).eval()
    np.testing.assert_allclose(theirs.get_input_embeddings().weight[TOOL].detach(), row)
    ids = AutoTokenizer.from_pretrained(out)("say <tool> now").input_ids
    assert TOOL in ids and ids == ours.tokenizer.encode("say <tool> now")
    with torch.no_grad():
        want = theirs(torch.tensor([ids])).logits.numpy()
    program = LlamaProgram(ours.config)
    got = full_logits(program, put_on_device(ours.weights), jnp.asarray([ids]))
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    # The adapter's base has the run's rows and head, not those of the run's base.
    base = AutoModelForCausalLM.from_pretrained(out / "base")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        adapted = peft.PeftModel.from_pretrained(base, out / "adapter").eval()
        logits = adapted(torch.tensor([ids])).logits.numpy()
    assert np.abs(logits - want).max() <= 1e-4 * np.abs(want).max()
    # The run's base is made anew of the experts.
    (tmp_path / "toy_b").rename(tmp_path / "moved")
    capsys.readouterr()
    assert export.main([str(run), "--to", str(tmp_path / "again")]) == 2
    error = capsys.readouterr().err
    assert "its experts are not at hand: expert" in error and "no such folder" in error
