"""The exceptions a caller may meet, by what they should do about them.

`BadInputError` is the caller's to mend and ends a command with exit code 2;
`RunError` and its kinds stop a run that can be resumed and end it with exit code 1.
Each message is one sentence: the name, what was expected, what came, what to do.
`explain` turns what pydantic says about settings into one.
"""

import contextlib
import difflib
import os
import reprlib
import sys
import traceback
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what runs in a sandbox has the standard library only
    import pydantic

_LONGEST = 1000  # characters of a message
# After a mistake in a user's own code, in the middle of a run.
MEND_CODE = (
    "mend it and start anew with run_dir=FOLDER, or, if it still gives what it gave so "
    "far, delete run.json in the run's folder and go on with --resume"
)


def printable(text: str, keep: str = "") -> str:
    """A text, perhaps a model's, with escapes for what a terminal obeys or hides.

    These are control characters, marks of direction, characters without width, halves
    of surrogate pairs, and what Unicode has not assigned.

    Args:
      text: anybody's.
      keep: characters to leave as they are, like a newline.
    """
    return "".join(
        c
        if c.isprintable() or c in keep or unicodedata.category(c) == "Zs"
        else ascii(c)[1:-1]
        for c in text
    )


class CycleQDError(Exception):
    """Base of all errors that this library raises on purpose.

    Its text is one line without control characters, shortened in its middle, whatever
    a damaged file put into it.
    """

    def __str__(self) -> str:
        text = printable(" ".join(super().__str__().split()))
        return text if len(text) <= _LONGEST else f"{text[:700]} ... {text[-250:]}"


class BadInputError(CycleQDError, ValueError):
    """A setting, file or argument is wrong; nothing was started or changed."""


class MissingDataError(BadInputError):
    """Data of a benchmark are not on this machine; the message says how to get them."""


class RunError(CycleQDError, RuntimeError):
    """A run cannot go on; what was done so far is kept and can be resumed."""


class SandboxError(RunError):
    """The sandbox itself failed; says nothing about the program run in it."""


@contextlib.contextmanager
def advising(advice: str | None) -> Iterator[None]:
    """Ends the sentence of a `BadInputError` with what to do, like "delete it".

    None leaves it as it is.
    """
    try:
        yield
    except BadInputError as err:
        if advice is None:
            raise
        raise BadInputError(f"{str(err).rstrip('.')}; {advice}.") from err


def explain(
    err: "pydantic.ValidationError",
    data: Any,
    model: "type[pydantic.BaseModel]",
    key: str = "",
) -> tuple[dict[str, Any], str]:
    """Chooses the error to mend first and describes it in one sentence.

    Args:
      err: the error that validation raised.
      data: the settings.
      model: the model that they were validated with.
      key: the place of `data` in a config; put in front of the location.
    """
    # A misspelt key also leaves one missing: the misspelt one is what to mend.
    errors = sorted(err.errors(), key=lambda e: e["type"] != "extra_forbidden")
    places = [_place(error, data) for error in errors]
    # The branches of a union fail each for itself; the deepest knows most.
    inside = [p for p in places if p[: len(places[0])] == places[0]]
    place = max(inside, key=len)
    alike = [e for e, p in zip(errors, places, strict=True) if p == place]
    first, *others = (e["msg"].removeprefix("Value error, ") for e in alike)
    others = dict.fromkeys(m.removeprefix("Input should ") for m in others)
    message = " or ".join([first.rstrip("."), *others])
    error = alike[0]
    if error["type"] == "extra_forbidden":
        known = _keys(model, place)
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        known = f"known are {', '.join(known)}" if known else "there are no settings"
        message += f"; did you mean {near[0]}?" if near else f"; {known}"
    elif error["type"] != "missing" and not isinstance(error["input"], dict):
        message += f" (given: {show(error['input'])})"
    where = ".".join(_short(str(part)) for part in (key, *place) if part != "")
    ending = "" if message.endswith("?") else "."
    return error, f"{where}: {message}{ending}" if where else f"{message}{ending}"


@contextlib.contextmanager
def own_code(
    what: str, code: Any, remedy: str, error: type[CycleQDError]
) -> Iterator[None]:
    """Says in one sentence what a user's own code raised, and in which line of it.

    Exceptions of this library pass, and so do those of code of this package: they are
    faults of the program, and keep their traceback.

    Args:
      what: the code, for the message.
      code: its class or function; its module's file is named.
      remedy: ends the message.
      error: what is raised.

    Raises:
      CycleQDError: of the kind `error`.
    """
    module = code.__module__
    try:
        yield
    except (CycleQDError, MemoryError):
        raise
    except Exception as err:  # a user's code may raise anything; the cause is kept
        if module.partition(".")[0] == "cycleqd_jax":
            raise
        raise error(
            f"{what} raised {type(err).__name__}: {err}{line_of(code, err)}; {remedy}."
        ) from err


def line_of(code: Any, err: BaseException) -> str:
    """The line of a user's module in which an exception began, for messages.

    Args:
      code: a class or function of the module.
      err: the exception.

    Returns:
      Like " (my_module.py, line 12)"; empty if no frame is of the module.
    """
    file = getattr(sys.modules.get(code.__module__), "__file__", None)
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(err.__traceback__)
        if frame.filename == file
    ]
    return f" ({os.path.basename(file)}, line {lines[-1]})" if lines else ""


def _place(error: Mapping[str, Any], data: Any) -> tuple[str | int, ...]:
    """The keys that lead to an error; without pydantic's names of union branches."""
    place, loc = [], error["loc"]
    if loc[-1:] == ("[key]",):  # the key itself is wrong
        loc = (*loc[:-2], "[key]")
    for part in loc:
        there = isinstance(data, list | tuple) and isinstance(part, int)
        if there or (isinstance(data, dict) and part in data):
            data = data[part] if not there or part < len(data) else None
            place.append(part)
        elif part == "[key]" or error["type"] == "missing":
            place.append(part)
    return tuple(place)


def _keys(model: Any, place: Sequence[str | int]) -> list[str]:
    """The keys that are allowed at `place`, which has an unknown one."""
    for part in (*place[:-1], None):
        fields = {f.alias or n: f for n, f in model.model_fields.items()}
        model = fields[part].annotation if part in fields else model
    return list(fields)


class _Short(reprlib.Repr):
    """Shows a few elements only: aliases in a small YAML can mean huge values."""

    def __init__(self):
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 20
        self.maxstring = self.maxother = 100

    def repr_int(self, value: int, level: int) -> str:
        """Describes huge integers, which Python refuses to print."""
        many = value.bit_length() > 256
        return f"an integer of {value.bit_length()} bits" if many else repr(value)


def show(value: Any) -> str:
    """A value on one short line, nearly as YAML writes it."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    return _short(_Short().repr(value))


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
