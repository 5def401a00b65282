"""Problems and prompt from the pickle of samples in the paper's code.

A sample holds the conversation before the first reply and the problem's scripts. What
is the same in all conversations is the prompt.
"""

import io
import pathlib
import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.data import check_fields
from cycleqd_jax.tasks.os_interaction.problems import OsProblem, Prompt, make_problems
from cycleqd_jax.tasks.published import Published

SAMPLES, SOURCE = "samples.pkl", "agentbench_os.py"
PUBLISHED = Published(
    "os_interaction",
    {
        SAMPLES: (
            f"evaluation/fishfarm/data/os_interaction/configs/{SAMPLES}",
            "d01c149d5003aabb3ee60d5fb21ea83f5280c4b7100fd91488ab06c95af0eb85",
        ),
        SOURCE: (
            f"tasks/{SOURCE}",
            "e8bc6e7f3357fa582752bbeac333f1210660844df8b77a238ad8cb6d89e2836d",
        ),
    },
)
_LARGEST = 1 << 22  # bytes of a pickle; the published one has 437628
_LONGEST = 1000  # items of a list


class OSInteractionSample:
    """Stands for the class of this name in the pickle; has no methods."""


class JudgeConfig:
    """Stands for the class of this name in the pickle; has no methods."""


_CLASSES = {
    f"fishfarm.tasks.os_interaction.{kind.__name__}": kind
    for kind in (OSInteractionSample, JudgeConfig)
}


# All that the published pickle needs: no opcode of these calls anything but a class of
# `_CLASSES`, and none reserves memory.
_OPCODES = frozenset(
    "PROTO FRAME STOP MARK MEMOIZE BINGET LONG_BINGET NONE NEWTRUE NEWFALSE BININT "
    "BININT1 BININT2 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS "
    "EMPTY_DICT SETITEM SETITEMS SHORT_BINUNICODE BINUNICODE STACK_GLOBAL NEWOBJ "
    "BUILD".split()
)


class _Unpickler(pickle._Unpickler):
    """Knows the classes of `_CLASSES` and no other name, and cannot take for ever.

    A value in a pickle can be part of many others. Tuples of the same tuple would take
    for ever to hash, so keys are texts; so would long lists in many places to read.
    """

    def find_class(self, module: str, name: str) -> type:
        if f"{module}.{name}" not in _CLASSES:
            raise pickle.UnpicklingError(f"it names {module}.{name}"[:80])
        return _CLASSES[f"{module}.{name}"]

    def load_setitem(self) -> None:
        self._set(self.stack[-2:-1], super().load_setitem)

    def load_setitems(self) -> None:
        self._set(self.stack[::2], super().load_setitems)

    def load_append(self) -> None:
        self._extend(self.stack[-2], 1, super().load_append)

    def load_appends(self) -> None:
        self._extend(self.metastack[-1][-1], len(self.stack), super().load_appends)

    def _set(self, keys: list[Any], load: Callable[[], None]) -> None:
        if not all(isinstance(key, str) for key in keys):
            raise pickle.UnpicklingError("it has keys that are no texts")
        load()

    def _extend(self, items: Any, more: int, load: Callable[[], None]) -> None:
        if not isinstance(items, list) or len(items) + more > _LONGEST:
            raise pickle.UnpicklingError(f"it has a list of more than {_LONGEST}")
        load()

    dispatch: ClassVar = pickle._Unpickler.dispatch | {
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
    }


def _load(content: bytes) -> Any:
    """The data in a pickle of protocol 4 or 5.

    Raises:
      ValueError: it is damaged, cut off, or has more than plain data and `_CLASSES`.
    """
    try:
        for opcode, _, _ in pickletools.genops(content):
            if opcode.name not in _OPCODES:
                raise pickle.UnpicklingError(f"it has the opcode {opcode.name}")
        return _Unpickler(io.BytesIO(content)).load()
    except (
        pickle.UnpicklingError,
        ArithmeticError,  # a length beyond 64 bits
        EOFError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
    ) as err:
        raise ValueError(f"{type(err).__name__}: {err}") from err


def read_samples(path: pathlib.Path) -> tuple[dict[int, OsProblem], Prompt]:
    """All problems by index, and the prompt. Nothing that the file names is called.

    Raises:
      BadInputError: the file is not the published pickle, or a sample is damaged.
    """
    samples = [
        (where, _fields(where, sample, OSInteractionSample))
        for where, sample in _samples(path)
    ]
    rows = []
    for where, sample in samples:
        check_fields(where, sample, {"problem": list, "config": dict})
        pair = sample["config"]
        config = _fields(f"{where}, config", pair.get("config"), JudgeConfig)
        rows.append((where, _row(sample.get("index"), pair.get("file"), config)))
    problems = make_problems(rows)
    prompt = None
    for (where, sample), problem in zip(samples, problems.values(), strict=True):
        found = _prompt(where, sample["problem"], problem.description)
        if prompt not in (None, found):
            raise BadInputError(f"{where}: its prompt is not that of the others.")
        prompt = found
    if prompt is None:
        raise BadInputError(f"{path}: has no sample; get it with: {PUBLISHED.how}")
    return problems, prompt


def _samples(path: pathlib.Path) -> list[tuple[str, Any]]:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST} bytes")
        samples = _load(content)
        if not isinstance(samples, list):
            raise ValueError(f"it holds a {type(samples).__name__}")
    except OSError as err:
        raise BadInputError(f"{path}: cannot be read ({err.strerror}).") from err
    except ValueError as err:
        raise BadInputError(
            f"{path}: expected the published pickle of samples, but it is cut off, "
            f"damaged or another ({err}); get it with: {PUBLISHED.how}"
        ) from err
    return [(f"{path}, sample {place}", s) for place, s in enumerate(samples)]


def _fields(where: str, value: Any, kind: type) -> dict[str, Any]:
    if not isinstance(value, kind):
        raise BadInputError(f"{where}: expected an object of class {kind.__name__}.")
    return vars(value)


def _row(index: Any, file: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """A problem's fields as in `problems.jsonl`."""
    init, check = config.get("init_script"), config.get("check")
    return {
        "index": index,
        "file": file,
        "description": config.get("description"),
        "init_script": _scripts([] if init is None else init),
        "start": _script(config.get("start")),
        "match": config.get("match"),
        "check": _scripts(check),
        "example_script": _script(config.get("example_script")),
    }


def _scripts(value: Any) -> Any:
    return [_script(s) for s in value] if isinstance(value, list) else value


def _script(value: Any) -> Any:
    if isinstance(value, tuple) and len(value) == 2:
        return {"language": value[0], "code": value[1]}
    return value


def _prompt(where: str, messages: list[Any], description: str) -> Prompt:
    for message in messages:
        if not isinstance(message, dict):
            raise BadInputError(f"{where}: its problem is no list of messages.")
        check_fields(where, message, {"role": str, "content": str})
    *prefix, last = messages or [{"content": ""}]
    if not last["content"].endswith(description):
        raise BadInputError(f"{where}: its problem does not end with its description.")
    return Prompt(
        tuple({"role": m["role"], "content": m["content"]} for m in prefix),
        last["content"].removesuffix(description) + "{description}",
    )
