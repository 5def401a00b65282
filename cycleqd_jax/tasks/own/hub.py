"""Rows of a data set of the Hugging Face hub, or of a folder in the hub's layout.

The hub's client fetches the files of one commit, and the library `datasets` (extra
`hub`) reads them from its cache. A branch or tag is looked up once: a run keeps the
commit that was found.
"""

import contextlib
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from cycleqd_jax.errors import BadInputError, MissingDataError
from cycleqd_jax.files import Section, Text
from cycleqd_jax.tasks.own.rows import Row

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_FILES = ("*.parquet", "*.jsonl", "*.json", "*.csv", "*.tsv", "*.gz", "*.zst", "*.md")


class HubData(Section):
    """A data set of the hub.

    Attributes:
      name: "owner/name", or a folder with the files of a data set; a folder that exists
        wins over a name of the hub.
      split: of the data set, or several like "train+validation"; None takes the only
        one.
      config: which of several tables; None takes the only one.
      revision: a commit, branch or tag; None is the newest.
    """

    name: Text
    split: Text | None = None
    config: Text | None = None
    revision: Text | None = None

    @property
    def is_folder(self) -> bool:
        """True if the files are in a folder of this machine."""
        return pathlib.Path(self.name).expanduser().is_dir()

    @property
    def is_pinned(self) -> bool:
        """True for a folder, and where the commit is given."""
        return self.is_folder or bool(_COMMIT.fullmatch(self.revision or ""))

    def fetched(self, download: bool = True) -> tuple["HubData", pathlib.Path]:
        """The same with the commit that its revision names, and the files' folder.

        Args:
          download: whether the hub may be asked; else only the client's cache is.

        Raises:
          MissingDataError: it is not here, and cannot or may not be downloaded.
          BadInputError: the hub has no such data set or revision.
        """
        if self.is_folder:
            return self, pathlib.Path(self.name).expanduser().resolve()
        if not _NAME.fullmatch(self.name):
            raise BadInputError(
                f"hub: {self.name!r} is no folder of this machine and no name of the "
                "hub; expected owner/name."
            )
        import huggingface_hub
        from huggingface_hub import errors

        try:
            folder = huggingface_hub.snapshot_download(
                self.name,
                repo_type="dataset",
                revision=self.revision,
                allow_patterns=list(_FILES),
                local_files_only=not download,
            )
        except errors.RepositoryNotFoundError as err:
            raise BadInputError(
                f"hub: the hub has no data set {self.name}, and there is no such "
                "folder here (a gated one needs `hf auth login` first)."
            ) from err
        except errors.RevisionNotFoundError as err:
            raise BadInputError(
                f"hub: {self.name} has no revision {self.revision!r} on the hub; give "
                "one that it has, or none for the newest."
            ) from err
        except Exception as err:  # the client and its transports share no narrower one
            raise MissingDataError(
                f"hub: {self.name} is not in the cache of the hub's client and cannot "
                f"be downloaded ({type(err).__name__}: {_line(err)}); where there is a "
                f"network, type: hf download --repo-type dataset {self.name} "
                "--local-dir FOLDER, and give that FOLDER as the name."
            ) from err
        commit = pathlib.Path(folder).name
        return self.model_copy(update={"revision": commit}), pathlib.Path(folder)


def read_hub(data: HubData, folder: pathlib.Path) -> list[Row]:
    """The rows of a data set, in its order.

    Args:
      data: says which config and split.
      folder: of the data set's files, from `HubData.fetched`.

    Raises:
      BadInputError: the extra is not installed, there is no such config or split, or a
        file is damaged.
    """
    try:
        import datasets
    except ImportError as err:
        raise BadInputError(
            f"hub: {data.name} is read by the library datasets, which cannot be "
            f"imported ({_line(err)}); install the extra with pip install "
            "'cycleqd-jax[hub]'."
        ) from err
    try:
        with _quiet(datasets):
            found = datasets.load_dataset(str(folder), data.config)
    except Exception as err:  # the library's, and those of its readers: any kind
        raise BadInputError(
            f"hub: {data.name} cannot be read ({type(err).__name__}: "
            f"{_line(err.__cause__ or err)}); expected parquet, JSONL or CSV files, "
            "and the name of a config as config where there are several."
        ) from err
    rows: list[Row] = []
    for split in _splits(data, list(found)):
        # Without decoding: pictures and sounds stay as they are stored.
        table = found[split].with_format("arrow")[:]
        for number, fields in enumerate(table.to_pylist(), 1):
            where = f"{data.name} ({split}), row {number}"
            rows.append(Row(where, len(rows) + 1, fields))
    if not rows:
        raise BadInputError(f"hub: {data.name} has no rows; expected one per problem.")
    return rows


def _splits(data: HubData, there: list[str]) -> list[str]:
    if data.split is None and len(there) == 1:
        return there
    asked = [] if data.split is None else data.split.split("+")
    unknown = [name for name in asked if name not in there]
    if unknown or not asked or len(set(asked)) < len(asked):
        given = "none is given" if data.split is None else f"split is {data.split!r}"
        raise BadInputError(
            f"hub: {data.name} has the splits {', '.join(there)}, but {given}; "
            "expected one of them, or several like train+validation, as split."
        )
    return asked


@contextlib.contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """No progress bars of the library."""
    shown = not datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _line(err: BaseException) -> str:
    return " ".join(str(err).split())[:300].rstrip(".") or "no reason given"
