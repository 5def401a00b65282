"""Problems and prompt from the pickle of samples in the paper's code.

A sample holds the conversation before the first reply and the problem's scripts. What
is the same in all conversations is the prompt.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.data import check_fields
from cycleqd_jax.tasks.os_interaction.inert_pickle import loads
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


class OSInteractionSample:
    """Stands for the class of this name in the pickle; has no methods."""


class JudgeConfig:
    """Stands for the class of this name in the pickle; has no methods."""


_CLASSES = {
    f"fishfarm.tasks.os_interaction.{kind.__name__}": kind
    for kind in (OSInteractionSample, JudgeConfig)
}


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
        samples = loads(content, _CLASSES)
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
