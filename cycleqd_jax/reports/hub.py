"""Uploads an exported model to the Hugging Face hub."""

import pathlib
from typing import Any

import huggingface_hub
from huggingface_hub import errors

from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.files import reason


def check_hub_target(name: str, api: Any, token: str | None) -> None:
    """Refuses a place on the hub before anything is written.

    Args:
      name: `org/name` of a repository that does not exist yet.
      api: a `huggingface_hub.HfApi`.
      token: of the user; None where there is none.

    Raises:
      BadInputError: the name is none, there is no token, the hub cannot be reached, or
        the repository exists.
    """
    try:
        huggingface_hub.utils.validate_repo_id(name)
    except errors.HFValidationError as err:
        raise BadInputError(
            f"--push-to-hub: {name!r} is no name of a model ({reason(err)}); expected "
            "ORG/NAME."
        ) from err
    if name.count("/") != 1:
        raise BadInputError(f"--push-to-hub: expected ORG/NAME, got {name!r}.")
    if token is None:
        raise BadInputError(
            "--push-to-hub: there is no token of the hub on this machine; run "
            "`hf auth login`, or set HF_TOKEN."
        )
    try:
        exists = api.repo_exists(name)
    except (OSError, errors.HfHubHTTPError) as err:
        raise BadInputError(
            f"--push-to-hub: the hub cannot be asked for {name} ({reason(err)}); "
            "export without it, and upload the folder where there is a network."
        ) from err
    if exists:
        raise BadInputError(
            f"--push-to-hub: {name} exists on the hub already; choose another name."
        )


def push_to_hub(
    folder: pathlib.Path, name: str, api: Any, *, private: bool, message: str
) -> str:
    """Makes a repository and uploads a folder to it.

    Args:
      folder: with all of its sub-folders.
      name: `org/name`.
      api: a `huggingface_hub.HfApi`.
      private: whether only the owner sees it.
      message: of the commit.

    Returns:
      The address of the repository.

    Raises:
      RunError: it failed; the folder is as it was.
    """
    try:
        url = api.create_repo(name, private=private)
        api.upload_folder(repo_id=name, folder_path=str(folder), commit_message=message)
    except (OSError, ValueError, errors.HfHubHTTPError) as err:
        raise RunError(
            f"{name} could not be uploaded ({reason(err)}); go on with `hf upload "
            f"{name} {folder}`."
        ) from err
    return str(url)
