"""The settings of a task made from rows, and their short form in `tasks`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field

from cycleqd_jax.errors import show
from cycleqd_jax.files import Count, PathText, Section, Text, Whole, each_once
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.tasks.own.hub import HubData

FORMATS = ("jsonl", "csv", "hub")
Scorer = Literal[
    "exact", "contains", "regex", "number", "choice", "python_tests", "bash_check"
]
# A setting that only some scorers know -> those.
_ONLY = {
    "ignore_case": ("exact", "contains", "regex"),
    "tolerance": ("number",),
    "choices": ("choice",),
    "files": ("bash_check",),
}


def _named_alone(value: Any) -> Any:
    """A data set that is given by its name."""
    return {"name": value} if isinstance(value, str) else value


class OwnOptions(Section):
    """`task_settings.NAME` of a task that is made from a file, or a data set.

    Attributes:
      jsonl: the file, one JSON object per line; or
      csv: the file, whose first line names its columns; or
      hub: a data set of the hub: its name "owner/name", or a `HubData`.
      prompt: of a problem: text with fields in braces, like "Translate: {english}".
      answer: the field that the scorer judges by, or a text with fields in braces.
      scorer: how replies are judged, see `scorers` and `programs`.
      reply: a right reply, which experts learn: a field, or a text with fields in
        braces. None takes the answer where it is one (exact, contains, number, choice).
      system: the system message; None sends none.
      id: the field with a name for each problem; None takes the number of its line.
      split: the field that says which split a problem is in; None cuts by seed.
      train: problems of this split, in place of `problems.train`.
      optimise: likewise.
      validate_: likewise; `validate` in YAML.
      test: likewise.
      max_new_tokens: of a reply.
      ignore_case: of exact, contains and regex.
      tolerance: of number, relative.
      choices: of choice: the field with the list, or the list of all problems.
      files: of bash_check: the field with an object, path -> text.
    """

    model_config = pydantic.ConfigDict(validate_by_name=False, serialize_by_alias=True)

    jsonl: PathText | None = None
    csv: PathText | None = None
    hub: Annotated[HubData | None, BeforeValidator(_named_alone)] = None
    prompt: Text
    answer: Text
    scorer: Scorer
    reply: Text | None = None
    system: Text | None = None
    id: Text | None = None
    split: Text | None = None
    train: Count | None = None
    optimise: Count | None = None
    # `validate` would hide a method of pydantic's.
    validate_: Annotated[Count | None, Field(alias="validate")] = None
    test: Count | None = None
    max_new_tokens: Whole = 64
    ignore_case: bool = False
    tolerance: Annotated[float, Field(ge=0, le=1)] = 0.0
    choices: (
        Text
        | Annotated[
            tuple[Text, ...],
            Field(strict=False, min_length=2, max_length=26),
            AfterValidator(each_once),
        ]
        | None
    ) = None
    files: Text | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in FORMATS if getattr(self, name) is not None]
        if len(given) != 1:
            wrong = f"{' and '.join(given)} are" if given else "none is"
            raise ValueError(f"expected one of {', '.join(FORMATS)}, but {wrong} given")
        for name, scorers in _ONLY.items():
            default = type(self).model_fields[name].default
            if self.scorer not in scorers and getattr(self, name) != default:
                raise ValueError(
                    f"{name} belongs to the scorers {', '.join(scorers)}, but scorer "
                    f"is {self.scorer}; leave it out"
                )
        if self.scorer == "choice" and self.choices is None:
            raise ValueError(
                "scorer is choice, but choices is missing; expected a list, or the "
                "field with the list of each problem"
            )
        if self.split is not None and self.own_sizes:
            raise ValueError(
                f"split names the field {self.split!r}, so the file decides the sizes "
                f"of the splits; leave {', '.join(self.own_sizes)} out"
            )
        return self

    @property
    def source(self) -> str:
        """The file, or the data set."""
        return self.hub.name if self.hub else self.jsonl or self.csv or ""

    @property
    def own_sizes(self) -> dict[Split, int]:
        """Problems of the splits whose sizes this task sets itself."""
        given = {
            Split.TRAIN: self.train,
            Split.OPTIMISE: self.optimise,
            Split.VALIDATE: self.validate_,
            Split.TEST: self.test,
        }
        return {split: size for split, size in given.items() if size is not None}


def is_own(options: Mapping[str, Any]) -> bool:
    """True if settings are those of a task made from a file or a data set."""
    return any(name in options for name in FORMATS)


def named_tasks(data: Any, keys: Sequence[str] = ("tasks",)) -> Any:
    """Settings in which every task is a name.

    A mapping in a list of tasks stands for a name, and the rest of it for the section
    of that name in `task_settings`, whose own settings come before it.

    Args:
      data: settings as they were read.
      keys: of the lists.

    Returns:
      `data` itself if there is no such mapping, else changed copies.

    Raises:
      ValueError: a mapping names no file or no name.
    """
    if not isinstance(data, Mapping):
        return data
    short: dict[str, dict[str, Any]] = {}
    changed: dict[str, Any] = {}
    for key in keys:
        entries = data.get(key)
        if not isinstance(entries, list | tuple):
            continue
        if not any(isinstance(entry, Mapping) for entry in entries):
            continue
        changed[key] = [_named(key, entry, short) for entry in entries]
    sections = data.get("task_settings") or {}
    if not short or not isinstance(sections, Mapping):
        return {**data, **changed}
    laid = dict(sections)
    for name, own in short.items():
        over = sections.get(name) or {}
        laid[name] = {**own, **over} if isinstance(over, Mapping) else over
    return {**data, **changed, "task_settings": laid}


def _named(key: str, entry: Any, short: dict[str, dict[str, Any]]) -> Any:
    """The name of an entry; its settings are put into `short`."""
    if not isinstance(entry, Mapping):
        return entry
    own = dict(entry)
    given = [
        _named_alone(own[name]) if name == "hub" else {"name": own[name]}
        for name in FORMATS
        if isinstance(own.get(name), str | Mapping)
    ]
    if not given or not isinstance(source := given[0].get("name"), str):
        raise ValueError(
            f"{key} has the mapping {show(dict(entry))}; expected one with jsonl or "
            "csv, the file with the problems, or hub, the data set"
        )
    name = own.pop("name", None)
    if name is None:
        name = pathlib.PurePath(source).stem
        if not name.isidentifier():
            raise ValueError(
                f"{key}: the task of {source} has no name; give it one, like "
                "name: my_skill"
            )
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(
            f"{key}: a task made from a file has the name {show(name)}; expected "
            "letters, digits and underscores, like my_skill"
        )
    if short.setdefault(name, own) != own:
        raise ValueError(
            f"{key}: two tasks made from files have the name {name!r}; give each "
            "another"
        )
    return name
