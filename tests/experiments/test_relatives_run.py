"""The main command on a Mistral, a Qwen2 and a Qwen3, and what it exports."""

import numpy as np
import pytest
import toy_world

from cycleqd_jax.models.llama.relatives import MistralConfig, Qwen2Config, Qwen3Config
from cycleqd_jax.models.loading import load_model
from experiments import agent_skills, export

WINDOWS = {"sliding_window": 7, "layer_types": ("full_attention", "sliding_attention")}
KINDS = {
    "mistral": (MistralConfig, {"sliding_window": 9}),
    "qwen2": (Qwen2Config, WINDOWS),
    "qwen3": (Qwen3Config, {"attention_bias": True}),
}

EXPORTED = ["--individual", "expert/toy_b", "--no-adapter"]  # the full fine-tune


@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(n, marks=pytest.mark.slow) for n in ("mistral", "qwen2")), "qwen3"],
)
def test_a_run_with_conditioning_and_gradients(tmp_path, kind):
    family, changes = KINDS[kind]
    settings = toy_world.make_world(
        tmp_path, num_tasks=2, full=("toy_b",), kind=family, **changes
    )
    settings["basis"] |= {"conditioning": "regmean"}
    settings["qd"] |= {
        "num_generations": 4,
        "seeds": [1.0],
        "mutation": "gradient",
        "ascent_answers": "known",
        "ascent_steps": 1,
        "ascent_problems": 2,
    }
    settings["engine"]["mode"] = "auto"
    config = toy_world.write_config(tmp_path / "config.yaml", settings)
    run = tmp_path / "run"
    assert agent_skills.main(["--config", str(config), f"run_dir={run}"]) == 0
    assert export.main([str(run), *EXPORTED, "--to", str(tmp_path / "m")]) == 0
    base, merged = (load_model(tmp_path / name) for name in ("base", "m"))
    assert merged.config == base.config and merged.config.model_type == kind
    changed = {
        n
        for n in base.weights
        if not np.array_equal(*(m.weights[n] for m in (base, merged)))
    }
    assert any(name.endswith("q_proj.weight") for name in changed)
    if kind == "qwen3":  # the full expert's scalar moves its norms
        assert "model.layers.0.self_attn.q_norm.weight" in changed
