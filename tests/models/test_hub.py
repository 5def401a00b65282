"""Models and experts by hub name, with the hub's client replaced."""

import huggingface_hub
import pytest
from huggingface_hub import errors

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.loading import load_expert, load_model


@pytest.fixture
def hub(monkeypatch):
    """Folders, or errors to raise, by name and revision."""
    shelf = {}

    def snapshot_download(name, revision=None, allow_patterns=None):
        assert "*.safetensors" in allow_patterns
        found = shelf[name, revision]
        if isinstance(found, Exception):
            raise found
        return str(found)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return shelf


def test_a_revision_is_asked_for(hf, hub, tmp_path, same_weights):
    for seed, revision in enumerate((None, "v1.0", "refs/pr/7")):
        model = hf.model(seed)
        hub["some-org/some.model", revision] = hf.save(tmp_path / str(seed), model)
        suffix = f"@{revision}" if revision else ""
        loaded = load_model(f"some-org/some.model{suffix}")
        same_weights(loaded.weights, hf.weights(model))
        assert loaded.source == f"some-org/some.model{suffix}"
    hub["org/expert", "main"] = hf.save(tmp_path / "expert", hf.model(9))
    expert = load_expert("org/expert@main", loaded)
    same_weights(expert.weights, hf.weights(hf.model(9)))


def test_a_folder_wins_over_a_hub_name(hf, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hf.save(tmp_path / "org" / "name", hf.model())
    assert load_model("org/name").source == "org/name"


def http_error(kind):
    """An error of the client as it is raised, without a real response."""
    error = kind.__new__(kind)
    Exception.__init__(error, "404 Client Error.\nMore on the next line.")
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (http_error(errors.RepositoryNotFoundError), "no such model on the hub"),
        (http_error(errors.GatedRepoError), "hf auth login"),
        (http_error(errors.RevisionNotFoundError), "no such revision"),
        (errors.LocalEntryNotFoundError("offline"), "LocalEntryNotFoundError: offline"),
        (errors.OfflineModeIsEnabled("offline"), "pass its folder"),
        (ConnectionError("no route"), "pass its folder"),
        (OSError(28, "No space left on device"), "OSError: .* No space left"),
        (RuntimeError("new in the next version"), "RuntimeError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_of_the_hub_become_one_sentence(hub, error, words):
    hub["org/name", "v1"] = error
    with pytest.raises(BadInputError, match=words) as caught:
        load_model("org/name@v1")
    assert "'org/name@v1'" in str(caught.value) and "\n" not in str(caught.value)
